"""Ask a chat model for the synonyms and visual descriptors of class names.

The model stands behind `huggingface_hub.InferenceClient`: the Hub's providers, or any server that speaks
OpenAI's chat completions (vLLM, llama.cpp, Ollama, `transformers serve`). `questions` is what is asked and
how an answer is read, `chat` the connection, `journal` what survives a kill.
"""

from s3clip.texts.generation.chat import GenerationError
from s3clip.texts.generation.questions import PROMPT_VERSION
from s3clip.texts.generation.run import Progress, generate_synonyms

__all__ = ["PROMPT_VERSION", "GenerationError", "Progress", "generate_synonyms"]
