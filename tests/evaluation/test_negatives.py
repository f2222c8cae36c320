"""Negatives in comparisons: a method that is a head answers as it does, the others say that they do not."""

import json
import shlex

import pytest
import torch
from typer.testing import CliRunner

from s3clip import Backbone, HeadConfig, SynonymousSpaceHead, SynonymSet, cli
from s3clip.cli.compare import _use
from s3clip.demo import held_out_digits, model_folder
from s3clip.evaluation import METHODS, compare, compare_words
from s3clip.evaluation.method_texts import MethodTexts
from s3clip.evaluation.scoring import Problem, _fitted
from tests.tiny_models import build

pytestmark = pytest.mark.filterwarnings("ignore:.*are truncated")

RECORDS = [
    {"name": "zero", "synonyms": ["0", "nil"], "negatives": ["six", "nine"], "groups": {"strokes": "round"}},
    {"name": "one", "synonyms": ["1"], "groups": {"strokes": "straight"}},
    {"name": "two", "synonyms": ["2", "deuce"], "negatives": ["seven"], "groups": {"strokes": "mixed"}},
    {"name": "three", "negatives": ["eight", "five", "seven"], "groups": {"strokes": "round"}},
    {"name": "four", "groups": {"strokes": "straight"}},
]
NO_PLACE = ["center", "name", "name_7_templates", "name_80_templates", "softmax_max", "random_descriptors"]
OWN = {"mine": HeadConfig(metric="soft_nearest", points="texts", centering="class_mean")}


@pytest.fixture(scope="module", params=["demo", "siglip"])
def shown(request):
    """A model, the embeddings of images of it, and their labels."""
    demo = request.param == "demo"
    backbone = Backbone.from_pretrained(str(model_folder())) if demo else Backbone(*build("siglip"))
    pictures, labels = held_out_digits()
    kept = [i for i in range(len(labels)) if labels[i] < 5][:150]
    with torch.no_grad():
        embeds = backbone.encode_images(**backbone.preprocess([pictures[i] for i in kept]))
    return backbone, embeds, torch.tensor([int(labels[i]) for i in kept])


def head_of(backbone, config, records=RECORDS):
    head = SynonymousSpaceHead(backbone, config=config).fit_classes(records, cache=False, progress=False)
    return head.eval()


@torch.no_grad()
def test_a_method_that_is_a_head_gives_what_the_head_gives(shown):
    """Logits, classes and groups: those of `fit_classes` of the same file, negatives and all."""
    backbone, embeds, labels = shown
    methods = ["default", "mean_similarity+rips+centered", "nearest", "name", "softmax_max"]
    found = compare(
        RECORDS, labels, backbone=backbone, image_embeds=embeds, methods=methods, configs=OWN, bootstrap=5
    )
    texts, bias = MethodTexts(backbone, SynonymSet.read(RECORDS), None), backbone.logit_bias()
    problem = Problem(
        image_embeds=embeds,
        view_embeds=None,
        labels=labels,
        texts_of=texts.of,
        texts=0,
        class_names=texts.class_names,
        logit_scale=backbone.logit_scale().item(),
        logit_bias=None if bias is None else bias.item(),
        activation=backbone.activation,
        negatives=texts.negatives,
    )
    changed = 0
    for name in ("default", "mean_similarity+rips+centered", "nearest", "mine"):
        config = OWN.get(name) or METHODS[name].config
        head = head_of(backbone, config)
        logits = head(image_embeds=embeds)
        method = METHODS[name] if name in METHODS else METHODS["default"]
        if name in METHODS:
            compared = _fitted(problem, method, config, texts.of(method, 0))(image_embeds=embeds)
            torch.testing.assert_close(compared, logits, atol=1e-4, rtol=1e-5)
        assert torch.equal(found.predicted[name], logits.argmax(1)), name
        best = head.group_probabilities(logits, "strokes").argmax(1)
        owners = torch.tensor([0, 1, 2, 0, 1])
        right = (best == owners[labels]).double().mean()
        assert found[name].levels["strokes"] == pytest.approx(float(right)), name
        bare = [{key: own for key, own in each.items() if key != "negatives"} for each in RECORDS]
        changed += int((head_of(backbone, config, bare)(image_embeds=embeds) != logits).any())
    assert changed == 4  # the law could fail
    for name in ("name", "center"):
        own = head_of(
            backbone, METHODS[name].config, [each["name"] for each in RECORDS] if name == "name" else bare
        )
        assert torch.equal(found.predicted[name], own(image_embeds=embeds).argmax(1)), name


def test_what_learns_and_what_adapts_begins_with_the_same_logits(shown):
    backbone, embeds, labels = shown
    views = embeds[:, None].expand(-1, 3, -1)
    asked = {"methods": ["default"], "adapt": ["mean_views"], "bootstrap": 5}
    found = compare(RECORDS, labels, backbone=backbone, image_embeds=views, **asked)
    assert torch.equal(found.predicted["default+mean_views"], found.predicted["default"])


def test_the_others_say_that_they_have_no_place(shown, tmp_path):
    backbone, embeds, labels = shown
    found = compare(RECORDS, labels, backbone=backbone, image_embeds=embeds, bootstrap=5)
    assert sorted(found.settings["without_negatives"]) == sorted(NO_PLACE)
    for text in (found.summary(), found.markdown()):
        assert "The negatives of classes are in all methods but name, " in text
        assert "softmax_max" in text
        assert "which have no place for them." in text
    found.save(tmp_path)
    assert type(found).model_validate(json.loads((tmp_path / "comparison.json").read_text()))
    plain = compare(["one", "two"], [0, 1], backbone=backbone, image_embeds=embeds[:2], bootstrap=5)
    assert "negatives" not in plain.summary()
    assert "without_negatives" not in plain.settings


def test_the_command_that_is_printed_leaves_out_what_the_method_did(tmp_path):
    backbone = Backbone.from_pretrained(str(model_folder()))
    pictures, labels = held_out_digits()
    embeds = backbone.encode_images(**backbone.preprocess(list(pictures[:60]))).detach()
    own = SynonymSet.read(RECORDS)
    own.write(tmp_path / "own.json")
    kept = [i for i in range(60) if labels[i] < 5]
    truth = [int(labels[i]) for i in kept]
    asked = {"methods": ["default", "softmax_max", "nearest"], "bootstrap": 5}
    found = compare(own, truth, backbone=backbone, image_embeds=embeds[kept], **asked)
    for name in ("center", "softmax_max", "nearest", "default"):
        best = found.model_copy(update={"best": found.best.model_copy(update={"name": name})})
        said = _use(best, own, tmp_path / name, [str(tmp_path / "own.json")], str(model_folder()), [], 9)
        ended = CliRunner().invoke(cli.app, shlex.split(said.removeprefix("To use it: "))[1:])
        assert ended.exit_code == 0, ended.output
        head = SynonymousSpaceHead.from_pretrained(tmp_path / name / "head", backbone=None)
        assert (head.folded.absence is not None) == (name in ("nearest", "default"))
        with torch.inference_mode():
            assert torch.equal(head(image_embeds=embeds[kept]).argmax(1), found.predicted[name]), name


@torch.no_grad()
def test_words_left_out_are_those_of_a_file_without_them(shown):
    backbone, embeds, labels = shown
    for config in (HeadConfig(), HeadConfig(centering="class_mean"), HeadConfig(scale_rule=None)):
        found = compare_words(
            RECORDS, labels, backbone=backbone, image_embeds=embeds, config=config, bootstrap=5
        )
        whole = head_of(backbone, config)(image_embeds=embeds).argmax(1)
        assert found.top1 == pytest.approx(float((whole == labels).double().mean()))
        for each in found.words:
            record = dict(RECORDS[each.class_index])
            name, *others = [w for w in (record["name"], *record["synonyms"]) if w != each.word]
            left = [dict(own) for own in RECORDS]
            left[each.class_index] = {**record, "name": name, "synonyms": others}
            predicted = head_of(backbone, config, left)(image_embeds=embeds).argmax(1)
            assert each.changed == int((predicted != whole).sum()), (config, each.word)


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        ([{}], "negatives: expected a mapping of texts to embeddings for each of 2 classes"),
        ([{}, {"x": torch.ones(3)}], r"negatives: expected embeddings of shape \(4,\), got \[\(3,\)\]"),
        ([{}, {"x": torch.full((4,), torch.nan)}], "negatives: they hold NaN or Inf"),
        ([{}, {" ": torch.ones(4)}], "class 1: negatives"),
        ([[], ["x"]], "negatives: expected a mapping"),
    ],
)
def test_negatives_of_embeddings_that_do_not_fit_are_refused(negatives, message):
    with pytest.raises(ValueError, match=message):
        SynonymousSpaceHead().fit_embeddings(
            {"a": torch.eye(4)[:1], "b": torch.eye(4)[1:]}, negatives=negatives, logit_scale=10
        )
