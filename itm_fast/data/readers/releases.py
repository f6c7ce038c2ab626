"""The formats of one public release each: its own files, known by what is in them."""

from __future__ import annotations

from functools import partial

from itm_fast.data.readers.crossmodal import is_crossmodal, read_crossmodal
from itm_fast.data.readers.dense_captions import is_dense, read_dense
from itm_fast.data.readers.format import Format
from itm_fast.data.readers.lines_beside_names import MULTI30K, XTD10, holds_lines, read_lines_beside_names
from itm_fast.data.readers.object_releases import DOCCI, IIW, SUGARCREPE, SUGARCREPE_PP, WINOGROUND, holds, read_objects
from itm_fast.data.readers.split_lists import is_coco_cn, read_coco_cn
from itm_fast.data.readers.text_beside_images import is_text_beside_images, read_text_beside_images

_ALTERED = "altered captions are among them, which no image has: figures of these are the protocol's alone"
_CHOICES = {SUGARCREPE.name: _ALTERED, SUGARCREPE_PP.name: _ALTERED}

RELEASES = (
    *(
        Format(
            one.name, partial(holds, release=one), partial(read_objects, release=one), note=_CHOICES.get(one.name, "")
        )
        for one in (DOCCI, IIW, SUGARCREPE_PP, SUGARCREPE, WINOGROUND)
    ),
    Format("Crossmodal-3600's captions.jsonl", is_crossmodal, read_crossmodal),
    *(
        Format(one.name, partial(holds_lines, release=one), partial(read_lines_beside_names, release=one))
        for one in (XTD10, MULTI30K)
    ),
    Format("COCO-CN's captions and lists of splits", is_coco_cn, read_coco_cn),
    Format(
        "Densely Captioned Images' splits.json and annotations",
        is_dense,
        read_dense,
        comes_once=True,
        note="the short and the extra caption of an image are one; all splits are one set",
    ),
    Format("texts beside images of the same names, as Urban1k's", is_text_beside_images, read_text_beside_images),
)
