from mloptimizer.engines.thread_engine import ThreadEngine
from tests.engines.contract import SLOTS, EngineContract, act


class TestThreadEngine(EngineContract):
    def make(self) -> ThreadEngine:
        return ThreadEngine(SLOTS, act)
