"""Every reader of files with a small file that it reads rightly: a table of name, files, call and what comes out."""

from fuzz.array_cases import ARRAYS, IMAGES
from fuzz.case import Case
from fuzz.embedding_cases import EMBEDDINGS
from fuzz.id_cases import IDS
from fuzz.inspect_cases import INSPECTED
from fuzz.model_cases import MODELS
from fuzz.release_cases import RELEASES
from fuzz.set_cases import SETS
from fuzz.text_cases import TEXT
from fuzz.vocabulary_cases import VOCABULARIES

CASES: dict[str, Case] = {
    **{**SETS, **RELEASES, **TEXT, **IDS, **ARRAYS, **VOCABULARIES, **IMAGES, **MODELS},
    **{**EMBEDDINGS, **INSPECTED},
}
