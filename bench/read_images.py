"""JPEGs of the size of COCO from a folder, parquet and a .tar: in order as embed reads them, and in any as train."""

import io
import pickle
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from _interleaved import arguments, extra_mb_apart, finish, report, timed

from itm_fast.data import read_captioned_images
from itm_fast.data.readers.image_file import read_image

DISTINCT = 50  # of so many pictures all are copies, each with a number of its own behind it
SIDES = 480, 640


def add_flags(parser):
    parser.add_argument("--images", type=int, default=5000, help="images, COCO-5K has 5,000")
    parser.add_argument("--decoded", type=int, default=500, help="of them read in order, and as many in any order")
    parser.add_argument("--folder", type=Path, help="where the sets lie meanwhile, 0.65 MB an image")


def pictures(scale):
    """JPEGs of 100 to 160 KB: a coarse pattern with grain."""
    from PIL import Image

    rng = np.random.default_rng(0)
    height, width = (max(16, int(side * min(1.0, scale))) for side in SIDES)
    for grain in np.linspace(11, 19, DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grainy = smooth + grain * rng.standard_normal((height, width, 1), dtype=np.float32)
        file = io.BytesIO()
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def write(folder, args):
    """{name: path} of the same images in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, made = max(int(args.images * args.scale), 10), list(pictures(args.scale))
    names, contents = (
        [f"{number:012}.jpg" for number in range(n)],
        [made[k % DISTINCT] + b"%012d" % k for k in range(n)],
    )
    (folder / "images").mkdir()
    for name, content in zip(names, contents, strict=True):
        (folder / "images" / name).write_bytes(content)
    with tarfile.open(folder / "test.tar", "w") as archive:
        for name, content in zip(names, contents, strict=True):
            for suffix, held in ((".jpg", content), (".txt", b"a caption")):
                member = tarfile.TarInfo(name.replace(".jpg", suffix))
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
    kind = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("caption", pa.string())])
    for file, group in (("groups.parquet", 100), ("one_group.parquet", n)):
        with pq.ParquetWriter(folder / file, kind) as writer:
            for start in range(0, n, group):
                part = slice(start, start + group)
                images = [{"bytes": c, "path": p} for c, p in zip(contents[part], names[part], strict=True)]
                columns = {"image": images, "caption": ["a caption"] * len(images)}
                writer.write_table(pa.Table.from_pydict(columns, kind))
    sizes = [len(content) for content in contents]
    print(f"{n} JPEGs of {min(sizes) / 1e3:.0f} to {max(sizes) / 1e3:.0f} KB, {sum(sizes) / 1e6:.0f} MB")
    return {
        "folder": folder / "images",
        "tar": folder / "test.tar",
        "parquet, groups of 100": folder / "groups.parquet",
        "parquet, one group": folder / "one_group.parquet",
    }


def files_of(path):
    """Images of a set, in order."""
    return sorted(path.iterdir()) if path.is_dir() else read_captioned_images(path).packed


def readers(paths, n_decoded):
    """Calls that read some images of each set, in order and in any order of all, as a process that was just begun."""

    def reading(opened, order):
        def call():
            files = pickle.loads(opened)  # what was found or decoded before stays behind
            for place in order:
                read_image(files[place])

        return call

    opened = {name: pickle.dumps(files_of(path)) for name, path in paths.items()}
    n = len(files_of(paths["folder"]))
    orders = {"": range(min(n, n_decoded)), ", any order": np.random.default_rng(1).permutation(n)[:n_decoded].tolist()}
    return {f"{name}{what}": reading(opened[name], order) for what, order in orders.items() for name in paths}


def main(argv=None):
    args = arguments(argv, __doc__, add_flags)
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        paths = write(Path(place), args)
        calls = readers(paths, args.decoded)
        extra = extra_mb_apart(calls, readers, paths, args.decoded) if args.scale >= 1 else {}
        ms = timed(calls, max(2, args.rounds // 2))
        others = [name for name in calls if not name.startswith("folder")]
        of_folder = {
            name: ms["folder" + name.removeprefix(max((p for p in paths if name.startswith(p)), key=len))]
            for name in others
        }
        bars = [(f"{name}, share of the folder's speed", of_folder[name] / ms[name], -0.9) for name in others]
        bars += [(f"{name}, memory, MB", mb, 64.0) for name, mb in extra.items() if mb is not None]
        shape = f"{args.decoded} of {len(files_of(paths['folder']))} images"
        return finish(args, [report(args, "reading images", shape, ms, bars)])


if __name__ == "__main__":
    sys.exit(main())
