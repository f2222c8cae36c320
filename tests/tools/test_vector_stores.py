"""What docs/vector_stores.md says of the stores' scores, for any space: a class as a query is a metric."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from s3clip import HeadConfig, SynonymousSpaceHead

PICTURES, DIM, SIZES = 60, 8, (1, 4, 2, 7, 3)


@pytest.fixture(scope="module")
def space() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Pictures and the texts of classes of different sizes."""
    torch.manual_seed(0)
    return torch.randn(PICTURES, DIM), [normalize(torch.randn(size, DIM), dim=1) for size in SIZES]


def scores(space: tuple[torch.Tensor, list[torch.Tensor]], metric: str) -> torch.Tensor:
    """Return (pictures, classes) of a head, with every text kept."""
    pictures, texts = space
    head = SynonymousSpaceHead(config=HeadConfig(metric=metric, scale_rule=None))
    head.fit_embeddings(texts, [str(i) for i in range(len(texts))], logit_scale=1.0)
    with torch.inference_mode():
        return head(image_embeds=pictures)


def ranked(column: torch.Tensor) -> list[int]:
    return column.argsort(descending=True).tolist()


def test_qdrant(space, tmp_path: Path):
    qdrant_client = pytest.importorskip("qdrant_client")
    models = qdrant_client.models
    pictures, texts = space
    nearest, mean = scores(space, "nearest"), scores(space, "mean_similarity")
    qdrant = qdrant_client.QdrantClient(path=str(tmp_path))
    cosine = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    maxsim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    many = cosine.model_copy(update={"multivector_config": maxsim})
    for name, kind, vectors in (
        ("pictures", cosine, pictures.tolist()),
        ("pictures of one vector", many, pictures[:, None].tolist()),
        ("classes", many, [own.tolist() for own in texts]),
    ):
        qdrant.create_collection(name, vectors_config=kind)
        points = [models.PointStruct(id=i, vector=vector) for i, vector in enumerate(vectors)]
        qdrant.upsert(name, points)

    for i, own in enumerate(texts):
        others = torch.cat([other for other in texts if other is not own])
        for negative in ([], others.tolist()):
            examples = models.RecommendInput(
                positive=own.tolist(),
                negative=negative,
                strategy=models.RecommendStrategy.BEST_SCORE,
            )
            query = models.RecommendQuery(recommend=examples)
            found = qdrant.query_points("pictures", query=query, limit=PICTURES).points
            if negative:
                assert {each.id for each in found if each.score > 0} == {
                    j for j, best in enumerate(nearest.argmax(1).tolist()) if best == i
                }
            else:
                assert [each.id for each in found] == ranked(nearest[:, i])
        found = qdrant.query_points("pictures of one vector", query=own.tolist(), limit=PICTURES).points
        summed = torch.tensor([each.score for each in sorted(found, key=lambda each: each.id)])
        torch.testing.assert_close(summed, len(own) * mean[:, i], atol=1e-5, rtol=1e-5)
    for picture, row in zip(pictures, nearest, strict=True):
        found = qdrant.query_points("classes", query=[picture.tolist()], limit=len(SIZES)).points
        got = torch.tensor([each.score for each in sorted(found, key=lambda each: each.id)])
        torch.testing.assert_close(got, row, atol=1e-5, rtol=1e-5)
    qdrant.close()


def test_lancedb(space, tmp_path: Path):
    lancedb = pytest.importorskip("lancedb")
    pa = pytest.importorskip("pyarrow")
    pictures, texts = space
    nearest = scores(space, "nearest")
    store = lancedb.connect(tmp_path)
    table = store.create_table(
        "pictures", [{"id": i, "vector": row} for i, row in enumerate(pictures.numpy())]
    )
    for i, own in enumerate(texts):
        # As many of each text as are wanted of all: the first of the best are among them.
        hits = table.search(list(own.numpy())).distance_type("cosine").limit(5).to_list()
        best: dict[int, float] = {}
        for hit in hits:
            best[hit["id"]] = max(best.get(hit["id"], -1), 1 - hit["_distance"])
        assert sorted(best, key=best.__getitem__, reverse=True)[:5] == ranked(nearest[:, i])[:5]
    schema = pa.schema([("id", pa.int64()), ("texts", pa.list_(pa.list_(pa.float32(), DIM)))])
    rows = [{"id": i, "texts": own.tolist()} for i, own in enumerate(texts)]
    classes = store.create_table("classes", pa.Table.from_pylist(rows, schema=schema))
    for picture, row in zip(pictures.numpy(), nearest, strict=True):
        found = classes.search(picture, vector_column_name="texts").distance_type("cosine").limit(len(SIZES))
        got = {each["id"]: 1 - each["_distance"] for each in found.to_list()}
        torch.testing.assert_close(
            torch.tensor([got[i] for i in range(len(SIZES))]), row, atol=1e-5, rtol=1e-5
        )
