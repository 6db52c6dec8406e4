# SPDX-License-Identifier: Apache-2.0
"""What a viewer is given: the map, its mask, or bands, by what was asked for."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.scoring.display import BANDS, SHOWN, ShowAsd, in_bands

VALUES = np.array([0, 1.9, 2, 2.9, 3, 3.9, 4, 9], np.float32).reshape(1, 2, 2, 2)


def case(**request):
    anomaly = MetaTensor(torch.from_numpy(VALUES), affine=np.diag([2.0, 2, 3, 1]))
    return {"pred": anomaly, "mask": (anomaly >= 2).float(), "findings": {"case_score": 1.0}, **request}


def test_bands_are_a_decade_of_the_tail_apart():
    assert list(BANDS) == ["mild", "moderate", "strong"]
    assert in_bands(VALUES, 2.0).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert in_bands(VALUES, 3.0).ravel().tolist() == [0, 0, 0, 0, 1, 1, 2, 3]
    assert in_bands(VALUES, 2.0).dtype == np.uint8


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        ({}, "map"),
        ({"result_dtype": "float32"}, "map"),
        ({"result_dtype": "uint16"}, "bands"),
        ({"result_dtype": None, "save_label": True}, "bands"),
    ],
)
def test_auto_goes_by_the_type_that_is_asked_for(request_, what):
    shown = ShowAsd("pred", SHOWN)(case(**request_))["pred"].numpy()
    np.testing.assert_array_equal(shown, VALUES if what == "map" else in_bands(VALUES, 2.0))


def test_what_is_named_is_given_whatever_the_type():
    for show, expected in {"map": VALUES, "mask": VALUES >= 2, "bands": in_bands(VALUES, 2.5)}.items():
        shown = ShowAsd("pred", show, threshold=2.5)(case(result_dtype="uint16"))
        np.testing.assert_array_equal(shown["pred"].numpy(), expected)
        assert isinstance(shown["pred"], MetaTensor)
        assert shown["result"] == {"case_score": 1.0}
    with pytest.raises(ValueError, match="auto, map, mask, bands"):
        ShowAsd("pred", "everything")
