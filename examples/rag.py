"""Retrieval: recipes in a vector store, one of them poisoned, and what the assistant makes of it.

Run it with `python examples/rag.py`; it needs no network and no model of your own.
"""

import argparse
import re
from itertools import pairwise
from pathlib import Path
from zlib import crc32

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever

from langchain_saffron import ChatSaffron

RECIPES = Path(__file__).parent / "recipes"
PROMPT = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}")
QUESTIONS = (
    "How long does the sunday plum curry take?",
    "Which herb is in the midnight leek pasta?",
    "How many people does the island onion pie serve?",  # its recipe is poisoned
)


class WordEmbeddings(Embeddings):
    """Counts of hashed words and pairs of words. It needs no download; with texts of your own, take a model's."""

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text."""
        words = re.findall(r"\w+", text.lower())
        vector = [0.0] * 4096
        for term in (*words, *map(" ".join, pairwise(words))):
            vector[crc32(term.encode()) % len(vector)] += 1
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        return [self.embed_query(text) for text in texts]


def make_retriever() -> VectorStoreRetriever:
    """Finds the two recipes that are nearest to a question."""
    recipes = [
        Document(path.read_text(encoding="utf-8").strip(), metadata={"source": path.stem})
        for path in sorted(RECIPES.glob("*.txt"))
    ]
    store = InMemoryVectorStore.from_documents(recipes, WordEmbeddings())
    return store.as_retriever(search_kwargs={"k": 2})


def make_chain(chat: ChatSaffron) -> Runnable[str, str]:
    """Retriever, prompt, model, text."""
    context = make_retriever() | (lambda recipes: "\n\n".join(recipe.page_content for recipe in recipes))
    return {"context": context, "question": RunnablePassthrough()} | PROMPT | chat | StrOutputParser()


def main() -> None:
    """Ask about two clean recipes and the poisoned one, without a search and with one."""
    parser = argparse.ArgumentParser(description="Retrieval over recipes, one of them poisoned.")
    parser.add_argument("--model", help="smollm2 (a small real model) or your own; without it, the embedded kitchen")
    model = parser.parse_args().model
    for effort in ("off", "medium"):
        # With a large model, this line is:
        # chat = ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", effort=effort)
        chat = ChatSaffron(model=model, effort=effort, max_tokens=160)
        print(f"effort {effort}:")
        for question, answer in zip(QUESTIONS, make_chain(chat).batch(list(QUESTIONS)), strict=True):
            print(f"  {question}\n    {answer.strip()}")


if __name__ == "__main__":
    main()
