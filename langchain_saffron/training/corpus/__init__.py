"""Reading conversations and token-level rewards from files of many forms.

`reader` opens a corpus; `json_files` and `tables` read records by kind of file, `formats` says what a record means and
`messages` what its messages say, and `turns` puts conversations into the reward model's turns.
"""

from langchain_saffron.training.corpus.formats import conversations_of, register_record_form
from langchain_saffron.training.corpus.messages import Message, ShapeError
from langchain_saffron.training.corpus.reader import Corpus, Record

__all__ = ["Corpus", "Message", "Record", "ShapeError", "conversations_of", "register_record_form"]
