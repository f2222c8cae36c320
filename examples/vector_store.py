"""Classify embeddings that lie in a vector store: no model is needed, only texts and images of the same one.

    python examples/vector_store.py
    python examples/vector_store.py --backbone openai/clip-vit-base-patch32

The store is filled here with handwritten digits, whatever the backbone; yours is full already.
docs/vector_stores.md has LanceDB, Qdrant and PostgreSQL.
"""

import argparse

import numpy as np
import torch

from s3clip import Backbone, SynonymousSpaceClassifier, SynonymousSpaceHead, SynonymSet
from s3clip.demo import held_out_digits, model_folder, synonym_file


def fill_store(backbone: Backbone, words: SynonymSet) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return what a vector store has: embeddings of images and of texts, and the class of each text."""
    images = held_out_digits()[0]
    with torch.inference_mode():
        image_vectors = backbone.encode_images(**backbone.preprocess(images))
    texts = [(text, each.name) for each in words.classes for text in (each.name, *each.synonyms)]
    text_vectors = backbone.encode_texts([text for text, _ in texts])
    return image_vectors.numpy(), text_vectors.numpy(), [name for _, name in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=str(model_folder()), help="a Hub repository or a folder")
    given = parser.parse_args()
    words, backbone = SynonymSet.read(synonym_file()), Backbone.from_pretrained(given.backbone)
    image_vectors, text_vectors, text_classes = fill_store(backbone, words)
    scale = backbone.logit_scale().item()  # write it down beside the vectors; 100 for OpenAI's CLIP
    truth = np.array(words.class_names)[held_out_digits()[1]]
    print(f"{len(image_vectors)} images and {len(text_vectors)} texts of {image_vectors.shape[1]} dimensions")

    # As a scikit-learn estimator: texts are the training set, their classes the labels.
    classifier = SynonymousSpaceClassifier(logit_scale=scale).fit(text_vectors, text_classes)
    print(f"estimator: {np.mean(classifier.predict(image_vectors) == truth):.1%} right")

    # As a head, which also says which text matched. The first row of a class is its own name.
    owners = np.array(text_classes)
    rows = [torch.from_numpy(text_vectors[owners == name]) for name in words.class_names]
    texts = [[each.name, *each.synonyms] for each in words.classes]
    head = SynonymousSpaceHead().fit_embeddings(rows, words.class_names, texts=texts, logit_scale=scale)
    answers = head.predict(image_embeds=image_vectors, top_k=1)
    print(f"head: {np.mean(np.array([best.label for (best,) in answers]) == truth):.1%} right")
    for (best,), label in zip(answers[:3], truth, strict=False):
        print(f"  a {label}: {best.label} {best.score:.1%}, because of {best.text!r}")

    # For the best few classes of many images there is no need of all logits.
    top = head.top_classes(image_embeds=torch.from_numpy(image_vectors), k=3)
    print("best three of the first image:", [head.class_names[i] for i in top.class_index[0].tolist()])
    head.save_pretrained("digits-space")
    print("Saved to digits-space; s3clip label EMBEDDINGS --head digits-space labels files of embeddings.")


if __name__ == "__main__":
    main()
