"""Tables on disk: the rows of the sets that are here, and what is kept of the others."""

import pandas as pd
import pytest

from pdm.study.tables import write_sets


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PDM_RESULTS", str(tmp_path))
    return tmp_path / "smoke" / "provenance"


def test_rows_of_sets_that_are_not_here_stay_where_they_are(folder):
    whole = pd.DataFrame({"dataset": ["faces", "photos", "faces", "photos"], "psnr": [1.5, 2.5, 3.5, 4.5]})
    path = write_sets(whole, "deblurring", "smoke")
    assert pd.read_csv(path).equals(whole) and (folder / "deblurring.json").is_file()
    ours = pd.DataFrame({"dataset": ["photos", "photos"], "psnr": [20.5, 40.5], "commits": ["a", "b"]})
    write_sets(ours, "deblurring", "smoke")
    assert pd.read_csv(path).psnr.tolist() == [1.5, 20.5, 3.5, 40.5]
    assert (folder / "deblurring-photos.json").is_file()
    write_sets(whole, "deblurring", "smoke")
    assert pd.read_csv(path).equals(whole)
    write_sets(ours[:1], "deblurring", "smoke")
    assert pd.read_csv(path).psnr.tolist() == [1.5, 20.5, 3.5]
