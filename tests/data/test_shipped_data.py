"""Data sets that come with the project, by the tests that a new one inherits."""

from pathlib import Path

import pytest

from data_tests import DataTests
from picture_sources import write_csv, write_folder


class TestSynthetic(DataTests):
    overrides = ("data=synthetic", "data.num_samples=200", "data.image_size=8", "data.num_classes=4")


class TestImageFolder(DataTests):
    @pytest.fixture(autouse=True)
    def pictures(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path / "pictures", 20)
        (root / "red" / "bad.png").write_bytes(b"no picture")
        self.overrides = ("data=image_folder", f"data.root={root}", "data.image_size=8", "data.on_error=skip")


class TestImageFolderBatchByBatch(DataTests):
    @pytest.fixture(autouse=True)
    def pictures(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path / "pictures", 20)
        not_kept = ("data.in_memory=false", "data.num_workers=0")
        self.overrides = ("data=image_folder", f"data.root={root}", "data.image_size=[8,10]", *not_kept)


class TestCsv(DataTests):
    @pytest.fixture(autouse=True)
    def pictures(self, tmp_path: Path) -> None:
        root = write_folder(tmp_path / "pictures", 20)
        file = write_csv(root / "labels.csv", root)
        self.overrides = ("data=csv", f"data.root={file}", "data.image_size=8", "data.channels=auto", "data.mean=auto")
