import pytest

from itm_fast.data import Vocabulary


@pytest.fixture
def vocabulary():
    return Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "a", "dog", "runs"])
