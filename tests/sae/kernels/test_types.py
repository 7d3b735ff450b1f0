import torch

from tasks.sae.kernels.types import Entries


def test_rows_name_the_row_of_each_entry():
    entries = Entries(torch.ones(3), torch.zeros(3, dtype=torch.int32), torch.tensor([0, 2, 2, 3]))
    assert entries.n == 3
    assert entries.rows.tolist() == [0, 0, 2]


def test_marked_entries_stay_in_their_rows_and_are_summed_up_by_latent():
    entries = Entries(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([5, 1, 5], dtype=torch.int32), torch.tensor([0, 2, 2, 3]))
    kept = entries.only(torch.tensor([False, True, True]))
    assert (kept.values.tolist(), kept.latents.tolist(), kept.start.tolist()) == ([2.0, 4.0], [1, 5], [0, 1, 1, 2])
    assert entries.sum_by_latent(entries.values * 10, 6).tolist() == [0, 20, 0, 0, 0, 50]
