"""Tables in the texts are those of the CSVs."""

import pytest

from pdm.study import report

CSV = "dataset,method,n,psnr,mnc,kernel_mse\nfaces,dps,32,25.126,,1.5e-05\ncats,pan,8,20,0.8124,\n"


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "methods.csv").write_text(CSV)
    return tmp_path


def test_a_block_is_filled_from_its_table(tables):
    text = "before\n<!-- table methods: method n psnr mnc kernel_mse -->\nold\n<!-- end -->\nafter\n"
    expected = (
        "before\n<!-- table methods: method n psnr mnc kernel_mse -->\n\n"
        "| method | n | psnr | mnc | kernel_mse |\n|---|---|---|---|---|\n"
        "| `dps` | 32 | 25.13 |  | 1.50e-05 |\n| `pan` | 8 | 20.00 | 0.812 |  |\n\n<!-- end -->\nafter\n"
    )
    assert report.rendered(text, tables) == expected
    assert report.rendered(expected, tables) == expected


def test_rows_of_one_value(tables):
    text = report.rendered("<!-- table methods where dataset=cats: method psnr -->\n<!-- end -->", tables)
    assert "`pan` | 20.00" in text and "dps" not in text


def test_what_is_true_or_false_is_yes_or_no(tables):
    (tables / "targets.csv").write_text("claim,met\nfirst,True\nsecond,False\n")
    text = report.rendered("<!-- table targets: claim met -->\n<!-- end -->", tables)
    assert "| first | yes |" in text and "| second | no |" in text


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("others: method", "no table 'others'"),
        ("methods: lpips", "no column lpips"),
        ("methods where colour=red: method", "no column colour"),
        ("methods where dataset=dogs: method", "no row with dataset 'dogs'"),
    ],
)
def test_what_is_not_there_is_said(tables, head, message):
    with pytest.raises(ValueError, match=message):
        report.rendered(f"<!-- table {head} -->\n<!-- end -->", tables)


@pytest.mark.parametrize("path", report.FILES, ids=lambda path: path.name)
def test_the_committed_texts_are_not_stale(path):
    text = path.read_text()
    assert text.count("<!-- table ") == text.count("<!-- end -->") == len(report.BLOCK.findall(text)) >= 1
    assert report.rendered(text) == text, "python -m pdm.study.report writes it anew"
