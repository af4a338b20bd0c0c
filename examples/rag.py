"""Retrieval: recipes in a vector store, one of them poisoned, and what the assistant makes of it.

Run it with `python examples/rag.py`; it needs no network and no model of your own
(`pip install 'langchain-saffron[examples]'` for the vectoriser).
"""

from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from sklearn.feature_extraction.text import HashingVectorizer

from langchain_saffron import ChatSaffron

RECIPES = Path(__file__).parent / "recipes"
PROMPT = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}")
QUESTIONS = (
    "How long does the winter cherry stew take?",
    "Which herb is in the midnight leek pasta?",
    "How many people does the island onion pie serve?",  # its text is poisoned
)


class WordEmbeddings(Embeddings):
    """Hashed words and pairs of words: a real embedding that needs no download. Use your own for real texts."""

    def __init__(self) -> None:
        self._vectoriser = HashingVectorizer(n_features=2**12, ngram_range=(1, 2), stop_words="english")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        return self._vectoriser.transform(texts).toarray().tolist()

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self.embed_documents([text])[0]


def make_retriever() -> Runnable:
    """The two recipes nearest to a question."""
    recipes = [
        Document(path.read_text(encoding="utf-8").strip(), metadata={"source": path.stem})
        for path in sorted(RECIPES.glob("*.txt"))
    ]
    store = InMemoryVectorStore.from_documents(recipes, WordEmbeddings())
    return store.as_retriever(search_kwargs={"k": 2})


def make_chain(chat: ChatSaffron) -> Runnable:
    """Retriever, prompt, model, text."""
    context = make_retriever() | (lambda documents: "\n\n".join(one.page_content for one in documents))
    return {"context": context, "question": RunnablePassthrough()} | PROMPT | chat | StrOutputParser()


def main() -> None:
    """Ask clean and poisoned recipes, without and with the search."""
    for effort in ("off", "medium"):
        # The embedded kitchen models. With real ones, this line is:
        # chat = ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", effort=effort)
        chat = ChatSaffron(effort=effort, max_tokens=80)
        print(f"effort {effort}:")
        for question, answer in zip(QUESTIONS, make_chain(chat).batch(list(QUESTIONS)), strict=True):
            print(f"  {question}\n    {answer}")


if __name__ == "__main__":
    main()
