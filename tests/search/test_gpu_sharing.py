"""How many trials share a GPU, by what their hardware logs and NVML say; both are stated by the tests."""

from collections.abc import Sequence
from typing import Any

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.events import Decision, HardwareSample, MicroBatching
from mloptimizer.core.nouns import DatasetInfo, Phase, Slot, TrialPlan
from mloptimizer.hardware.read.nvml import GpuUse
from mloptimizer.search.gpu_sharing import GpuNeeds, GpuSharing

STEADY_ROWS = 8  # after which a trial's pace and memory are known
SLOTS = [Slot(name, gpu_ids=("GPU-a",), gpu_memory_mb=16_000, gpu_trials=4) for name in ("a", "ab", "ac", "ad")]


def plan_of(number: int) -> TrialPlan:
    """Return a plan of which nothing but the number matters."""
    dataset = DatasetInfo("d", "classification", (8, 8, 1), 2, ("0", "1"), 8, 2, 2, (0.0,), (1.0,), "f", "", 0, 0.2, 0)
    return TrialPlan("s", number, Phase.EXPLORATION, "line", "", {}, dataset, 1, 1, 0, "", settings=Settings())


class Gpu:
    """A GPU of 16,000 MB, and the trials on it; each row is a second in which a trial trains on 100 images."""

    def __init__(self, needs: GpuNeeds | None = None, **settings: Any) -> None:
        self.used_mb = 0.0
        self.utilization: float | None = 30.0
        self.notes: list[Decision] = []
        self.needs = needs or GpuNeeds()
        settings = {"trials_per_gpu": "auto", **settings}
        self.sharing = GpuSharing(Settings(**settings), self.needs, self.notes.append, self.read)
        self._progress: dict[int, tuple[float, float]] = {}

    def read(self, uuids: Sequence[str]) -> GpuUse | None:
        return GpuUse(frozenset(), self.used_mb, 16_000 - self.used_mb)

    def start(self, number: int, slot: int = 0) -> None:
        self.start_on(number, SLOTS[slot])

    def start_on(self, number: int, slot: Slot) -> None:
        self.sharing.trial_started(plan_of(number), slot)

    def hear(self, event: HardwareSample | MicroBatching) -> int | None:
        """Let the event be heard; return the number of a trial that is to make way."""
        if isinstance(event, MicroBatching):
            self.sharing.micro_batches_chosen(plan_of(event.number), event)
        else:
            self.sharing.hardware_sampled(plan_of(event.number), event)
        return next(iter(self.sharing.take_leaving()), None)

    def end(self, number: int, ran_out_of_memory: bool = False) -> bool:
        del self._progress[number]
        return self.sharing.end(number, ran_out_of_memory)

    def row(self, number: int, pace: float = 100.0, **changes: Any) -> int | None:
        images, seconds = self._progress.get(number, (0.0, 0.0))
        self._progress[number] = (images + pace, seconds + 1)
        facts = {
            "part": "training",
            "epoch": 1.0 if images == 0 else 2.0,
            "images": images + pace,
            "training_s": seconds + 1,
            "gpu0_utilization_percent": self.utilization,
            "gpu0_memory_used_mb": self.used_mb,
            "gpu0_process_memory_mb": None,
        }
        return self.hear(HardwareSample(number, {**facts, **changes}))

    def train(self, *numbers: int, pace: float = 100.0, rows: int = STEADY_ROWS + 1, **changes: Any) -> list[int]:
        """Let the trials train for so many seconds; return those that are to make way."""
        heard = [self.row(number, pace, **changes) for _ in range(rows) for number in numbers]
        return [number for number in heard if number is not None]

    def offers(self, slot: int = 1, waiting: Sequence[int] = ()) -> bool:
        return self.sharing.offer(SLOTS[slot], waiting) is not None


@pytest.fixture
def gpu() -> Gpu:
    """One trial, number 3, on the GPU, which takes 2,000 MB and 30 % of its time."""
    gpu = Gpu()
    gpu.start(3)
    gpu.used_mb = 2000.0
    return gpu


def share(gpu: Gpu) -> None:
    """Let trial 5 start beside trial 3."""
    gpu.train(3)
    assert gpu.offers()
    gpu.start(5, 1)


# What may start


def test_another_trial_starts_where_there_is_room_and_the_figures_are_told(gpu: Gpu) -> None:
    gpu.train(3)
    offered = gpu.sharing.offer(SLOTS[1], [])
    assert offered is not None and offered.gpu_memory_mb == 14_000
    gpu.start_on(5, offered)
    assert gpu.notes == [
        Decision(
            5,
            "trials per GPU",
            "2 on the GPU of slot ab",
            "its GPU is busy 30 % of the time with trial 3; 14,000 MB of its memory are free, 2,400 are required: "
            "the largest trial needs 2,000",
        )
    ]


def test_nothing_starts_beside_a_trial_before_its_pace_is_known(gpu: Gpu) -> None:
    assert not gpu.offers()
    gpu.train(3, rows=STEADY_ROWS)
    assert not gpu.offers(), "the first row was in its first epoch, in which it compiles and its memory grows"
    gpu.train(3, rows=1)
    assert gpu.offers()


@pytest.mark.parametrize("changes", [{"part": "validation"}, {"part": None}, {"pace": 0.0}, {"training_s": None}])
def test_rows_without_training_do_not_count(gpu: Gpu, changes: dict[str, Any]) -> None:
    gpu.row(3)
    gpu.train(3, rows=20, **changes)
    assert not gpu.offers()


@pytest.mark.parametrize(("percent", "starts"), [(69.0, True), (70.0, False), (None, False)])
def test_nothing_starts_on_a_gpu_that_is_busy_or_does_not_tell(gpu: Gpu, percent: float | None, starts: bool) -> None:
    gpu.utilization = percent
    gpu.train(3)
    assert gpu.offers() == starts


@pytest.mark.parametrize(("used_mb", "starts"), [(13_600.0, True), (13_601.0, False)])
def test_what_is_free_now_must_be_a_fifth_more_than_the_hungriest_trial_needs(used_mb: float, starts: bool) -> None:
    gpu = Gpu()
    gpu.used_mb = used_mb - 2000
    gpu.start(3)
    gpu.used_mb = used_mb
    gpu.train(3)
    assert [gpu.offers() for _ in range(2)] == [starts] * 2
    told = [note for note in gpu.notes if note.choice.startswith("1 ")]
    assert len(told) == (0 if starts else 1)
    assert starts or ("2,399 MB" in told[0].reason and "2,400" in told[0].reason)


@pytest.mark.parametrize(
    ("needs", "event"),
    [
        ("the process", HardwareSample(3, {"gpu0_process_memory_mb": 5000.0})),
        ("the estimate", MicroBatching(3, 64, 1, 5000.0)),
        ("the growth", HardwareSample(3, {"gpu0_memory_used_mb": 5000.0})),
    ],
)
def test_what_a_trial_needs_is_the_most_that_was_measured_or_estimated(
    gpu: Gpu, needs: str, event: HardwareSample | MicroBatching
) -> None:
    gpu.hear(event)
    gpu.train(3)
    assert gpu.needs.largest_mb == 5000.0, needs


def test_what_others_have_of_the_gpu_is_no_need_of_the_trial() -> None:
    gpu = Gpu()
    gpu.used_mb = 9000.0
    gpu.start(3)
    gpu.used_mb = 11_000.0
    gpu.train(3)
    assert gpu.needs.largest_mb == 2000.0
    assert gpu.offers()


def test_an_earlier_trial_of_the_study_that_needed_more_counts() -> None:
    gpu = Gpu(GpuNeeds(12_000.0))
    gpu.start(3)
    gpu.used_mb = 2000.0
    gpu.train(3)
    assert not gpu.offers()


def test_nothing_starts_while_no_need_is_known() -> None:
    gpu = Gpu()
    gpu.start(3)
    gpu.train(3)
    assert not gpu.offers()


def test_a_stated_limit_is_what_a_trial_needs() -> None:
    assert Gpu(gpu_memory_limit_mb=4000).needs.largest_mb == 4000.0


def test_a_third_trial_waits_until_the_second_has_paid_and_is_steady(gpu: Gpu) -> None:
    share(gpu)
    gpu.train(3, pace=90.0)
    assert not gpu.offers(2)
    assert gpu.train(3, 5, pace=90.0) == []
    assert gpu.offers(2)
    gpu.start(6, 2)
    gpu.train(3, 5, 6, pace=80.0)
    assert [note.choice.partition(" ")[0] for note in gpu.notes] == ["2", "2", "3", "3"]


def test_slots_on_empty_gpus_come_first(gpu: Gpu) -> None:
    other = Slot("b", gpu_ids=("GPU-b",), gpu_trials=4)
    assert gpu.sharing.order([SLOTS[1], other, SLOTS[2]]) == [other, SLOTS[1], SLOTS[2]]


def test_slots_that_nobody_shares_are_free_to_use() -> None:
    gpu, slot = Gpu(), Slot("cpu")
    gpu.start_on(1, slot)
    assert gpu.sharing.offer(slot, []) is slot
    assert gpu.hear(HardwareSample(1, {})) is None
    assert not gpu.sharing.end(1, ran_out_of_memory=True)


# What is taken back


@pytest.mark.parametrize(("pace", "leaves"), [(55.5, []), (54.5, [5])])
def test_a_second_trial_makes_way_when_the_first_falls_to_half_its_pace(
    gpu: Gpu, pace: float, leaves: list[int]
) -> None:
    share(gpu)
    assert gpu.train(3, 5, pace=pace) == leaves


def test_what_is_taken_back_is_told_and_that_gpu_has_no_company_any_more(gpu: Gpu) -> None:
    share(gpu)
    gpu.train(3, 5, pace=40.0)
    assert (gpu.notes[-1].number, gpu.notes[-1].reason) == (
        5,
        "trial 3: 40 images/s beside trial 5, 100 without it; sharing pays from 55 on",
    )
    gpu.end(5)
    gpu.train(3, rows=20)
    assert not gpu.offers()
    gpu.end(3)
    gpu.start(7)
    gpu.train(7)
    assert not gpu.offers(), "until the end of the phase"
    assert gpu.sharing.offer(Slot("b", gpu_ids=("GPU-b",), gpu_trials=4), []) is not None


def test_one_trial_is_told_once(gpu: Gpu) -> None:
    share(gpu)
    assert gpu.train(3, 5, pace=40.0, rows=50) == [5]


def test_the_pace_while_the_second_trial_compiles_says_nothing(gpu: Gpu) -> None:
    share(gpu)
    for _ in range(30):
        assert gpu.row(3, 10.0) is None
        assert gpu.row(5, 0.0, part="first_step") is None
    assert gpu.train(3, 5, pace=80.0) == []


def test_a_pace_that_falls_later_is_seen_too(gpu: Gpu) -> None:
    share(gpu)
    assert gpu.train(3, 5, pace=80.0, rows=30) == []
    assert gpu.train(3, 5, pace=30.0, rows=30) == [5]


def test_of_three_trials_the_newest_makes_way_and_two_stay(gpu: Gpu) -> None:
    share(gpu)
    gpu.train(3, 5, pace=80.0)
    assert gpu.offers(2)
    gpu.start(6, 2)
    assert gpu.train(3, 5, 6, pace=55.0) == [6], "80 * 2/3 * 1.1 = 58.7 is where a third pays"
    assert gpu.notes[-1].choice.startswith("2 ") and gpu.notes[-1].choice.endswith(" ac")
    gpu.end(6)
    gpu.train(3, 5)
    assert not gpu.offers(2)
    gpu.end(5)
    gpu.train(3)
    assert gpu.offers(), "two were seen to pay"


def test_validation_does_not_count_against_the_pace(gpu: Gpu) -> None:
    share(gpu)
    for _ in range(20):
        assert gpu.row(3, 80.0) is None
        gpu.hear(HardwareSample(3, {"part": "validation", "epoch": 2.0, "images": 0.0, "training_s": 0.0}))
        assert gpu.row(5, 80.0) is None


def test_when_the_first_ends_the_second_has_to_show_its_own_pace(gpu: Gpu) -> None:
    share(gpu)
    gpu.train(5)
    gpu.end(3)
    assert not gpu.offers(0), "what it did beside the first says nothing"
    gpu.train(5)
    assert gpu.offers(0)


# Out of memory


def test_a_trial_that_ran_out_of_memory_beside_another_goes_on_alone(gpu: Gpu) -> None:
    share(gpu)
    gpu.train(3, 5, pace=80.0)
    assert gpu.end(5, ran_out_of_memory=True)
    assert (gpu.notes[-1].number, gpu.notes[-1].choice[:2]) == (5, "1 ")
    other = Slot("b", gpu_ids=("GPU-b",), gpu_trials=4)
    gpu.start_on(8, other)
    assert gpu.sharing.offer(other, [5]) is None, "it waits for an empty GPU"
    gpu.end(3)
    gpu.start(5)
    gpu.used_mb = 2000.0
    gpu.train(5)
    assert not gpu.offers()
    assert not gpu.end(5, ran_out_of_memory=True), "the next time it is its own fault"


def test_a_trial_that_had_the_gpu_alone_did_not_share_it(gpu: Gpu) -> None:
    gpu.train(3)
    assert not gpu.end(3, ran_out_of_memory=True)
    gpu.start(4)
    gpu.train(4)
    assert gpu.offers()


# A stated number


def test_with_a_stated_number_so_many_start_at_once_and_nobody_is_taken_back() -> None:
    gpu = Gpu(trials_per_gpu=2)
    slots = [Slot(name, gpu_ids=("GPU-a",), gpu_trials=2) for name in ("a", "ab")]
    for number, slot in enumerate(slots):
        assert gpu.sharing.offer(slot, []) is slot
        gpu.start_on(number, slot)
    assert gpu.sharing.offer(slots[1], []) is None
    assert gpu.train(0, 1, pace=1.0, rows=30) == []
    assert gpu.notes == []
    assert gpu.sharing.end(1, ran_out_of_memory=True)
    assert gpu.sharing.offer(slots[1], []) is None
