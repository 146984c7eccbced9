from collections.abc import Callable

import pytest

from mloptimizer.config.settings import Settings
from mloptimizer.core.errors import UsageError
from mloptimizer.core.nouns import DatasetInfo
from mloptimizer.spaces.augmented import suggest_augmentation, with_augmentation
from mloptimizer.spaces.space_files import RandomSuggest, SearchSpace, load_space, read_spaces, sample_params

MakeDataset = Callable[..., DatasetInfo]
STRENGTHS = {"crop_padding", "randaugment_magnitude", "mixup_alpha", "cutmix_alpha", "erasing_probability"}


def space(body: str) -> SearchSpace:
    return load_space(
        "own", f"def sample(trial, dataset): {body}\n\ndef build(params, dataset): return None\n", "own.py"
    )


def test_every_strength_is_a_possible_value_of_its_setting(make_dataset: MakeDataset) -> None:
    colour = make_dataset(input_shape=(32, 32, 3))
    for seed in range(50):
        strengths = suggest_augmentation(RandomSuggest(seed), colour)
        assert set(strengths) == STRENGTHS | {"flip_probability"}
        assert Settings(**strengths).augmentation == "auto"


@pytest.mark.parametrize("name", sorted(STRENGTHS | {"flip_probability"}))
def test_every_strength_is_proposed_as_off_and_as_its_most(make_dataset: MakeDataset, name: str) -> None:
    most = {"flip_probability": 0.5, "crop_padding": 0.2, "randaugment_magnitude": 10.0, "erasing_probability": 0.5}
    colour = make_dataset(input_shape=(32, 32, 3))
    drawn = {suggest_augmentation(RandomSuggest(seed), colour)[name] for seed in range(300)}
    assert (min(drawn), max(drawn)) == (0.0, most.get(name, 1.0))


def test_images_without_colour_are_never_mirrored(make_dataset: MakeDataset) -> None:
    assert set(suggest_augmentation(RandomSuggest(0), make_dataset(input_shape=(28, 28, 1)))) == STRENGTHS


def test_names_in_the_study_cannot_clash_with_those_of_a_space(make_dataset: MakeDataset) -> None:
    own = space("return {'rate': trial.suggest_categorical('mixup_alpha', ['a', 'b'])}")
    trial = RandomSuggest(0)
    params = sample_params(with_augmentation(own), trial, make_dataset())
    assert trial.params.keys() == {"mixup_alpha"} | {f"augment_{name}" for name in STRENGTHS}
    assert params.keys() == {"rate"} | STRENGTHS


def test_what_a_space_samples_itself_stays_and_is_not_proposed_twice(make_dataset: MakeDataset) -> None:
    trial = RandomSuggest(0)
    params = sample_params(with_augmentation(space("return {'mixup_alpha': 0.125}")), trial, make_dataset())
    assert params["mixup_alpha"] == 0.125
    assert "augment_mixup_alpha" not in trial.params


@pytest.mark.parametrize(
    ("body", "said"),
    [("return 1 / 0", r"own\.py, line 1: ZeroDivisionError"), ("return [1]", r"own\.py: sample returned a list")],
)
def test_an_error_still_names_the_file_of_the_space(make_dataset: MakeDataset, body: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sample_params(with_augmentation(space(body)), RandomSuggest(0), make_dataset())


def test_the_space_that_travels_is_the_persons(tmp_path) -> None:
    (cnn,) = read_spaces(["cnn"], tmp_path)
    assert (with_augmentation(cnn).source, with_augmentation(cnn).build) == (cnn.source, cnn.build)
