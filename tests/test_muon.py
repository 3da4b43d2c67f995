"""Muon in float32 against torch's own in bfloat16."""

import pytest
import torch

from latdiff.muon import Float32Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (16, 6), (6, 16)])
def test_an_orthogonalised_matrix_has_singular_values_of_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrix, (3.4445, -4.775, 2.0315), 5)
    assert found.shape == shape
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_it_steps_as_torchs_does_but_for_rounding():
    torch.manual_seed(0)
    start, target = torch.randn(12, 20), torch.randn(12, 20)
    ends = []
    for kind in (torch.optim.Muon, Float32Muon):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for _ in range(10):
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            optimizer.step()
        ends.append(weight.detach())
    moved = (ends[0] - start).norm()
    assert (ends[0] - ends[1]).norm() < 0.03 * moved
