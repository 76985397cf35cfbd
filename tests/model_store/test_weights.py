"""weights.py: both namings there and back, and every way in which tensors can fail to be those of a network."""

import hashlib
import re

import numpy as np
import pytest

from model_store.architecture import build_architecture
from model_store.compound_scaling import MEMBERS, Scaling, released
from model_store.weights import Weights, WeightsError, from_state_dict, names, to_state_dict, untrained

TINY = build_architecture(Scaling("tiny", "b", 0.25, 0.3, 33, 0.875), class_count=5)
NAMINGS = ["timm", "lukemelas"]
CLASSIFIER = {"timm": "classifier", "lukemelas": "_fc"}
STEM_NORM = {"timm": "bn1", "lukemelas": "_bn0"}


@pytest.fixture(scope="module")
def tiny():
    return untrained(TINY, seed=3)


@pytest.fixture(params=NAMINGS)
def naming(request):
    return request.param


@pytest.fixture
def state(tiny, naming):
    """A complete state dict of the tiny network, free to be spoilt."""
    return dict(to_state_dict(tiny, TINY, naming))


def refusal(state, architecture=TINY):
    """The message with which `state` is refused."""
    with pytest.raises(WeightsError) as refused:
        from_state_dict(state, architecture)
    return str(refused.value)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_tensor_has_one_name_of_theirs(member, naming):
    """Each naming covers each member's tensors exactly once, in the order of the network."""
    architecture = build_architecture(released(member))
    assert list(names(architecture, naming).values()) == list(architecture.tensor_shapes())


@pytest.mark.parametrize("member", ["b0", "lite0"])
def test_weights_come_back_through_either_naming(member, naming):
    """Exported and read again, every tensor is the same to the bit, and the naming is recognised by itself."""
    architecture = build_architecture(released(member))
    weights = untrained(architecture, seed=0)
    back = from_state_dict(to_state_dict(weights, architecture, naming), architecture)
    assert list(back) == list(weights)
    assert all(np.array_equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("member", MEMBERS)
def test_names_lead_back_through_either_naming_for_every_member(member, naming):
    """For every member, a state dict of its own names ends with each tensor under the canonical name it came from."""
    architecture = build_architecture(released(member))
    # One number per tensor, seen as its whole shape, tells them apart without a quarter of a gigabyte for B7.
    marked = {
        name: np.broadcast_to(np.float32(index), architecture.tensor_shapes()[canonical])
        for index, (name, canonical) in enumerate(names(architecture, naming).items())
    }
    found = from_state_dict(marked, architecture)
    order = {canonical: index for index, canonical in enumerate(names(architecture, naming).values())}
    assert all(found[canonical].flat[0] == index for canonical, index in order.items())


@pytest.mark.parametrize(
    ("naming", "expected"),
    [
        (
            "timm",
            {
                "conv_stem.weight": "stem.weight",
                "bn1.running_var": "stem.norm.variance",
                "blocks.0.0.conv_pw.weight": "stages.0.0.project.weight",
                "blocks.0.0.bn2.weight": "stages.0.0.project.norm.gamma",
                "blocks.2.1.conv_pwl.weight": "stages.2.1.project.weight",
                "blocks.2.1.bn2.running_mean": "stages.2.1.depthwise.norm.mean",
                "blocks.6.0.se.conv_reduce.bias": "stages.6.0.squeeze_excite.reduce.bias",
                "bn2.bias": "head.norm.beta",
            },
        ),
        (
            "lukemelas",
            {
                "_conv_stem.weight": "stem.weight",
                "_bn0.running_var": "stem.norm.variance",
                "_blocks.0._project_conv.weight": "stages.0.0.project.weight",
                "_blocks.0._bn2.weight": "stages.0.0.project.norm.gamma",
                "_blocks.4._project_conv.weight": "stages.2.1.project.weight",
                "_blocks.4._bn1.running_mean": "stages.2.1.depthwise.norm.mean",
                "_blocks.15._se_reduce.bias": "stages.6.0.squeeze_excite.reduce.bias",
                "_bn1.bias": "head.norm.beta",
            },
        ),
    ],
)
def test_names_are_those_of_published_checkpoints(naming, expected):
    """Names that occur in published checkpoints of B0 stand for the tensors that they hold there."""
    found = names(build_architecture(released("b0")), naming)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.model."])
def test_prefixes_of_wrappers_are_dropped(tiny, state, prefix):
    """What a training wrapper puts before every name does not matter, however many wrappers there were."""
    found = from_state_dict({prefix + name: array for name, array in state.items()}, TINY)
    assert all(np.array_equal(found[name], tiny[name]) for name in tiny)


def test_a_prefix_of_some_names_is_no_wrapper(state):
    """A prefix that only some tensors have is left alone, so those tensors are missing and unexpected by name."""
    name = list(state)[-1]
    state[f"module.{name}"] = state.pop(name)
    message = refusal(state)
    assert f"missing {name} [5]" in message
    assert f"unexpected module.{name} [5]" in message


def test_step_counters_are_ignored(tiny, naming, state):
    """A batch norm's `num_batches_tracked` is nothing that a network needs."""
    state[f"{STEM_NORM[naming]}.num_batches_tracked"] = np.array(1000)
    assert list(from_state_dict(state, TINY)) == list(tiny)


def test_missing_tensors_are_named(naming, state):
    """Each missing tensor is named as the file would have named it, with its shape."""
    del state[f"{CLASSIFIER[naming]}.bias"]
    del state[f"{STEM_NORM[naming]}.running_mean"]
    message = refusal(state)
    assert f"missing {CLASSIFIER[naming]}.bias [5]" in message
    assert f"missing {STEM_NORM[naming]}.running_mean [8]" in message


def test_unexpected_tensors_are_named_with_their_prefix(state):
    """A tensor that the network has no place for is named exactly as in the file."""
    prefixed = {f"module.{name}": array for name, array in state.items()}
    prefixed["module.attention.weight"] = np.zeros((2, 3), np.float32)
    assert "unexpected module.attention.weight [2, 3]" in refusal(prefixed)


@pytest.mark.parametrize("canonical", ["stem.weight", "head.norm.mean", "stages.0.0.project.weight"])
def test_a_canonical_name_in_a_file_is_no_secret_entrance(tiny, state, canonical):
    """Our own names mean nothing in a file: such a tensor is unexpected, even where it would have fitted."""
    state[canonical] = tiny[canonical]
    assert f"unexpected {canonical} " in refusal(state)


def test_mis_shaped_tensors_are_named_with_both_shapes(naming, state):
    """A tensor of another shape is named with the shape that it has and the one that it should have."""
    state[f"{STEM_NORM[naming]}.weight"] = np.ones(9, np.float32)
    assert f"{STEM_NORM[naming]}.weight has shape [9], expected [8]" in refusal(state)


def test_a_transposed_kernel_is_refused(naming, state):
    """As many numbers in another order are not the tensor: a kernel stored the TensorFlow way round is refused."""
    name = "conv_stem.weight" if naming == "timm" else "_conv_stem.weight"
    state[name] = state[name].transpose(2, 3, 1, 0)
    assert f"{name} has shape [3, 3, 3, 8], expected [8, 3, 3, 3]" in refusal(state)


def test_another_number_of_classes_is_explained(naming, state):
    """Weights for other labels say how many classes they have and how many the labels name."""
    seven = untrained(build_architecture(TINY.scaling, class_count=7), seed=3)
    state[f"{CLASSIFIER[naming]}.weight"] = seven["classifier.weight"]
    state[f"{CLASSIFIER[naming]}.bias"] = seven["classifier.bias"]
    assert refusal(state).count("(the weights have 7 classes, the labels name 5)") == 2


@pytest.mark.parametrize("shape", [(), (5, 1), (7, 9)])
def test_a_classifier_of_another_network_is_not_explained_by_its_classes(naming, state, shape):
    """Where more than the class count differs, the shapes alone are told, whatever they are."""
    state[f"{CLASSIFIER[naming]}.weight"] = np.zeros(shape, np.float32)
    message = refusal(state)
    assert f"{CLASSIFIER[naming]}.weight has shape {list(shape)}" in message
    assert "labels" not in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(naming, state, value):
    """One NaN or infinity in a tensor is found, and the tensor named."""
    name = f"{CLASSIFIER[naming]}.weight"
    state[name] = state[name].copy()
    state[name][2, 1] = value
    assert f"{name} holds values that are not finite" in refusal(state)


def test_values_beyond_float32_are_refused(naming, state):
    """A float64 that float32 cannot hold would become infinite, so it is refused."""
    name = f"{CLASSIFIER[naming]}.bias"
    state[name] = np.array([1e39, 0, 0, 0, 0])
    assert f"{name} holds values that are not finite float32 numbers" in refusal(state)


def test_negative_variances_are_refused(naming, state):
    """A batch norm's variance below zero has no square root, so its tensor is named and refused."""
    name = f"{STEM_NORM[naming]}.running_var"
    state[name] = np.full(8, -1, np.float32)
    assert f"{name} holds negative variances" in refusal(state)


@pytest.mark.parametrize("tensors", [{}, {"features.0.weight": np.zeros(1, np.float32)}])
def test_another_networks_tensors_are_refused_with_both_namings(tensors):
    """Where neither naming's stem is found, the message shows both, and some of what was found instead."""
    message = refusal(tensors)
    assert "conv_stem.weight" in message
    assert "_conv_stem.weight" in message
    assert (next(iter(tensors), "nothing")) in message


def test_another_members_weights_do_not_fit():
    """A B1 checkpoint for a B0 network is refused: the blocks that B0 lacks are unexpected."""
    b0, b1 = (build_architecture(released(member)) for member in ("b0", "b1"))
    message = refusal(to_state_dict(untrained(b1, seed=0), b1, "timm"), b0)
    assert "unexpected blocks.0.1.conv_dw.weight [16, 1, 3, 3]" in message


def test_a_long_list_of_differences_is_cut_and_counted():
    """The first dozen differences are told and the rest counted, so that the message stays readable."""
    message = refusal({"conv_stem.weight": np.zeros((8, 3, 3, 3), np.float32)})
    assert message.count("missing ") == 12
    assert re.search(rf"and {len(TINY.tensor_shapes()) - 1 - 12} more$", message)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(state, dtype):
    """Checkpoints in half or double precision are read, and held as float32."""
    found = from_state_dict({name: array.astype(dtype) for name, array in state.items()}, TINY)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_weights_do_not_change(tiny, naming, state):
    """Weights are read-only, and do not follow the arrays that they were made from."""
    name = f"{CLASSIFIER[naming]}.bias"
    state[name] = state[name].copy()
    weights = from_state_dict(state, TINY)
    state[name][:] = 9
    assert np.array_equal(weights["classifier.bias"], tiny["classifier.bias"])
    with pytest.raises(ValueError, match="read-only"):
        weights["classifier.bias"][0] = 9


def test_canonical_tensors_are_checked_too(tiny):
    """Weights made under canonical names are held to the same rules, with canonical names in the message."""
    tensors = dict(tiny)
    del tensors["stem.norm.beta"]
    tensors["tail.weight"] = np.zeros(2, np.float32)
    with pytest.raises(WeightsError, match=r"missing stem\.norm\.beta \[8\]; unexpected tail\.weight \[2\]"):
        Weights(tensors, TINY)


def test_untrained_weights_are_the_same_everywhere():
    """A seed gives the same bytes in every run and on every platform: these were computed once, on x86-64 Linux."""
    digest = hashlib.sha256()
    for name, array in untrained(build_architecture(released("b0")), seed=0).items():
        digest.update(name.encode() + array.astype("<f4").tobytes())
    assert digest.hexdigest() == "d4c53ca72b7c685f51eb069ae9c541dcb6350d6632da53d6528ffd4a814b8408"


def test_untrained_weights_differ_by_seed(tiny):
    """Another seed draws another value for every tensor."""
    other = untrained(TINY, seed=4)
    assert not any(np.array_equal(tiny[name], other[name]) for name in tiny)
