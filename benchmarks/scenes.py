"""Detect, then retrieve: python benchmarks/scenes.py --source DIR --model DIR --output DIR.

Makes scenes of the photographs of a data folder (train.csv, index.csv, query.csv), trains a
detector on those of the training classes, and prints, for the other classes: detection AP;
retrieval on detected crops against whole scenes and true boxes; and the F1 of matching image
folders to videos in the same three ways. What is there already is not made again.
"""

import argparse
import collections
import csv
import os
import pathlib
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

import columns
from benchmarks import scene_pictures as pictures
from detection import detect, fit
from eval import detection as detection_score
from eval import matching, mean_ap
from export import embed
from retrieval import embeddings, match
from retrieval.nearest.exact import ExactSearcher

FRAMES, STEP = 40, 5  # of a video; every so many-th is looked at
FOLDER_IMAGES = 6
WAYS = ("whole", "detected", "true")
BOX_COLUMNS = ("id", "path", "xmin", "ymin", "xmax", "ymax", "label")
TRAINING = (
    *("--image-size", "256", "--backbone", "efficientnet", "--width", "0.5", "--depth", "0.5"),
    *("--channels", "48", "--convolutions", "2", "--levels", "4", "--batch-size", "16"),
    *("--learning-rate", "2e-3", "--scales", "0.7", "1.3"),
)


def read_source(source: str) -> dict[str, dict[str, list[str]]]:
    """Returns of train, index and query the paths of each class."""
    found = {}
    for name in ("train", "index", "query"):
        paths = collections.defaultdict(list)
        table = os.path.join(source, f"{name}.csv")
        for label, path in columns.read_columns(table, ["label", "path"]):
            paths[label].append(os.path.join(source, path))
        found[name] = dict(paths)
    return found


def write_table(path: str, header: tuple, rows: list) -> None:
    """Writes a CSV table."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def make_scenes(
    output: str, photographs: dict, backgrounds: list[str], *, count: int, most: int, seed: int
) -> None:
    """Writes `count` scenes of each class into `output`, with boxes.csv and true crops.

    Args:
        output: folder.
        photographs: class → paths.
        backgrounds: paths.
        count: scenes of each class.
        most: items in a scene; the first is of the class.
        seed: of everything random.
    """
    if os.path.exists(os.path.join(output, "images.csv")):
        return
    rng, every = np.random.default_rng(seed), _all(photographs)
    boxes, images, crops = [], [], []
    for label, paths in sorted(photographs.items()):
        chosen = rng.permutation(paths)[:count]
        for number, path in enumerate(chosen):
            others = rng.choice(every, rng.integers(0, most)) if most > 1 else []
            scene, found = pictures.compose(rng, str(rng.choice(backgrounds)), [path, *others])
            name = f"{label}-{number}"
            file = f"images/{name}.jpg"
            _save(os.path.join(output, file), scene)
            boxes += [(name, file, *box, "item") for box in found]
            images.append((name, file, label))
            _save(os.path.join(output, f"true/{name}.jpg"), scene.crop(found[0]))
            crops.append((name, f"true/{name}.jpg", label))
    write_table(os.path.join(output, "boxes.csv"), BOX_COLUMNS, boxes)
    write_table(os.path.join(output, "true.csv"), ("id", "path", "folder"), crops)
    write_table(os.path.join(output, "images.csv"), ("id", "path", "folder"), images)


def make_videos(output: str, photographs: dict, backgrounds: list[str], seed: int) -> None:
    """Writes a video of each class: an item that moves, grows and blurs, and another one behind.

    The frames that are looked at are written as images and as true crops as well.
    """
    if os.path.exists(os.path.join(output, "whole.csv")):
        return
    import cv2

    rng, every = np.random.default_rng(seed), _all(photographs)
    whole, crops = [], []
    os.makedirs(output, exist_ok=True)
    for label, paths in sorted(photographs.items()):
        scene = pictures.background(rng, str(rng.choice(backgrounds)))
        other = pictures.random_item(rng, str(rng.choice(every)))
        ends = [pictures.random_item(rng, str(rng.choice(paths))) for _ in range(2)]
        writer = cv2.VideoWriter(
            os.path.join(output, f"{label}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, scene.size
        )
        for index in range(FRAMES):
            frame = scene.copy()
            if rng.random() < 0.9 and index < FRAMES // 2:
                pictures.paste(frame, other)
            box = pictures.paste(frame, _between(*ends, index / FRAMES), blur=rng.uniform(0, 1.5))
            writer.write(np.asarray(frame)[:, :, ::-1])
            if index % STEP == 0 and box:
                name = f"{label}-f{index}"
                _save(os.path.join(output, f"whole/{name}.jpg"), frame)
                _save(os.path.join(output, f"true/{name}.jpg"), frame.crop(box))
                whole.append((name, f"whole/{name}.jpg", label))
                crops.append((name, f"true/{name}.jpg", label))
        writer.release()
    write_table(os.path.join(output, "true.csv"), ("id", "path", "source"), crops)
    write_table(os.path.join(output, "whole.csv"), ("id", "path", "source"), whole)


def _between(first: pictures.Item, last: pictures.Item, share: float) -> pictures.Item:
    x, y, size = (
        a + share * (b - a)
        for a, b in zip((*first.center, first.size), (*last.center, last.size), strict=True)
    )
    return pictures.Item(first.path, (x, y), size, first.power)


def _all(photographs: dict[str, list[str]]) -> list[str]:
    return [path for paths in photographs.values() for path in paths]


def _save(path: str, image: Image.Image) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image.save(path, quality=92)


def run(main, *arguments: str) -> None:
    """Runs a command of the project; SystemExit if it fails."""
    code = main(list(arguments))
    if code not in (0, 3):
        raise SystemExit(code)


def describe(model: str, table: str, output: str) -> str:
    """Embeds the images of a table; returns the directory."""
    run(embed.main, "--model", model, "--table", table, "--output", output, "--overwrite")
    return output


def retrieval(index: str, query: str) -> dict:
    """Searches embeddings whose ids are CLASS-NUMBER…, an image's class being the right answer."""
    stored, asked = embeddings.load(index), embeddings.load(query)
    labels = [name.split("-")[0] for name in stored.ids]
    positions, _ = ExactSearcher(stored.vectors, ids=stored.ids).search(asked.vectors[:], 100)
    rankings = {
        name: [stored.ids[place] for place in row]
        for name, row in zip(asked.ids, positions.tolist(), strict=True)
    }
    truths = {
        name: [other for other, label in zip(stored.ids, labels, strict=True)
               if label == name.split("-")[0]]
        for name in asked.ids
    }  # fmt: skip
    return mean_ap.score(rankings, truths)


def detect_all(output: str, detector: str, threshold: str) -> None:
    """Detects in all scenes and videos."""
    model = ("--model", detector, "--threshold", threshold)
    best = ("--max-boxes", "1", "--when-none", "whole", "--keep", "folder")
    for name in ("index", "query"):
        table = f"{output}/{name}/images.csv"
        every = f"{output}/{name}/all"
        run(detect.main, *model[:2], "--table", table, "--output", every, "--threshold", "0.05")
        run(detect.main, *model, "--table", table, "--output", f"{output}/{name}/best", *best)
    keep = ("--keep", "folder", "--output", f"{output}/folders/crops")
    run(detect.main, *model, "--table", f"{output}/folders/images.csv", *keep)
    videos = sorted(str(path) for path in pathlib.Path(output, "videos").glob("*.avi"))
    frames = ("--frames", f"0:{FRAMES - 1}:{STEP}", "--output", f"{output}/videos/crops")
    run(detect.main, *model, "--video", *videos, *frames)


def measure_retrieval(output: str, model: str) -> None:
    """Prints detection AP and retrieval in the three ways."""
    tables = {"whole": "images.csv", "detected": "best/crops.csv", "true": "true.csv"}
    for name in ("index", "query"):
        folder = f"{output}/{name}"
        found = detection_score.evaluate(
            f"{folder}/all/crops.csv", f"{folder}/boxes.csv", any_class=True
        )
        print(f"detection in {name} scenes: " + _shown(found, "ap ap_50 ap_75 recall_50 boxes"))
    for way in WAYS:
        index, query = (
            describe(model, f"{output}/{name}/{tables[way]}", f"{output}/{name}/embedded-{way}")
            for name in ("index", "query")
        )
        result = retrieval(index, query)
        print(f"retrieval on {way}: " + _shown(result, "map_at_100 recall_at_1 queries"))


def measure_matching(output: str, model: str, solution: str) -> None:
    """Prints the F1 of matching in the three ways, with both rules of counting."""
    queries = {"whole": "images.csv", "detected": "crops/crops.csv", "true": "true.csv"}
    shown = {"whole": "whole.csv", "detected": "crops/crops.csv", "true": "true.csv"}
    for way in WAYS:
        tables = f"{output}/folders/{queries[way]}", f"{output}/videos/{shown[way]}"
        places = [f"{output}/{name}/embedded-{way}" for name in ("folders", "videos")]
        for table, place in zip(tables, places, strict=True):
            describe(model, table, place)
        for counted in match.COUNTED:
            rows = match.match_embeddings(
                places[0],
                places[1],
                query_table=tables[0],
                video_table=tables[1],
                rule=match.Rule(counted=counted),
            )
            path = f"{output}/matches-{way}-{counted}.csv"
            match.write_matches(path, rows)
            result = matching.evaluate(path, solution)
            print(
                f"matching on {way}, count of {counted}: "
                + _shown(result, "precision recall f1 matched right videos without_folder")
            )


def _shown(values: dict, names: str) -> str:
    texts = []
    for name in names.split():
        value = values[name]
        texts.append(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(texts)


def make(output: str, source: str, scenes: int) -> str:
    """Makes all scenes and videos; returns the path of the matching's solution."""
    found = read_source(source)
    every = np.random.default_rng(1).permutation(_all(found["train"]))
    backgrounds = [str(path) for path in every]
    half = len(backgrounds) // 2
    make_scenes(
        f"{output}/train",
        found["train"],
        backgrounds[:half],
        count=-(-scenes // len(found["train"])),
        most=4,
        seed=2,
    )
    test = {"backgrounds": backgrounds[half:], "most": 1}
    make_scenes(f"{output}/index", found["index"], count=12, seed=3, **test)
    make_scenes(f"{output}/query", found["query"], count=6, seed=4, **test)
    labels = sorted(found["index"])
    with_folder = {label: found["index"][label] for label in labels[:-7]}
    make_scenes(f"{output}/folders", with_folder, count=FOLDER_IMAGES, seed=5, **test)
    filmed = {label: found["query"][label] for label in labels[5:]}
    make_videos(f"{output}/videos", filmed, backgrounds[half:], 6)
    solution = f"{output}/solution.csv"
    rows = [(label, label if label in with_folder else "") for label in filmed]
    write_table(solution, ("video", "folder"), rows)
    return solution


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--source", required=True, help="folder of train, index and query.csv")
    parser.add_argument("--model", required=True, help="SavedModel that embeds the crops")
    parser.add_argument("--output", required=True, help="folder of scenes and results")
    parser.add_argument("--scenes", type=int, default=800, help="for training (default: 800)")
    parser.add_argument("--epochs", default="12", help="of the detector (default: 12)")
    parser.add_argument("--threshold", default="0.6", help="of a crop (default: 0.6)")
    args = parser.parse_args(argv)
    solution = make(args.output, args.source, args.scenes)
    detector = f"{args.output}/detector"
    boxes = ("--boxes", f"{args.output}/train/boxes.csv", "--workdir", detector)
    run(fit.main, *boxes, "--epochs", args.epochs, *TRAINING)
    detect_all(args.output, detector, args.threshold)
    measure_retrieval(args.output, args.model)
    measure_matching(args.output, args.model, solution)
    return 0


if __name__ == "__main__":
    sys.exit(main())
