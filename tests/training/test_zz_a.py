import pytest, numpy as np
from tests.training.conftest import *
A={"flip_probability":0.5,"crop_padding":0.125,"mixup_alpha":0.3,"cutmix_alpha":1.0,"erasing_probability":0.3,"randaugment_magnitude":5.0}
BASE={}
@pytest.mark.parametrize("s",[{},{"data_on_device":"on"},{"data_cache":"disk"},{"data_on_device":"on","xla":"on"},{"data_on_device":"on","accumulation_steps":2},{"data_on_device":"on","cpu_replicas":2},{"data_on_device":"on","cpu_replicas":2,"xla":"on","accumulation_steps":2,"steps_per_execution":3},{"cpu_replicas":2}])
def test_same(make_training_plan, completed, s):
    for name,aug in (("none",{}),("all",A)):
        b={"batch_size":32,"batch_size_multiplier":1,**aug,**s}
        if "cpu_replicas" in s: b["batch_size"]=16
        done=completed(make_training_plan(b))
        c=done.curve("loss")
        print(s,name,c, done.decision("images on the device"), done.decision("augmentation"))
        if not s: BASE[name]=c
        np.testing.assert_allclose(c,BASE[name],rtol=1e-4 if name=="none" else 2e-3)
