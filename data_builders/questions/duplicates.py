"""Near duplicates in a stream of questions: the first is kept, later ones name it.

MinHash signatures (datasketch) propose candidates; the exact Jaccard similarity of words and word pairs decides. Seen
questions lie in SQLite, so a million of them take no more memory than a thousand.
"""

import itertools
import re
import sqlite3
from pathlib import Path

from datasketch import MinHash, MinHashLSH

SIGNATURE_LENGTH = 64
# Candidates are proposed from this fraction of the threshold on, so that a pair at the threshold is hardly ever missed.
PROPOSE_FROM = 0.7
COMMIT_EVERY = 1000


class NearDuplicates:
    """The questions seen so far.

    Args:
        file: SQLite file; it is made anew.
        similarity: Jaccard similarity from which on two questions count as the same.
    """

    def __init__(self, file: Path, similarity: float) -> None:
        file.unlink(missing_ok=True)
        self.similarity = similarity
        lsh = MinHashLSH(threshold=PROPOSE_FROM * similarity, num_perm=SIGNATURE_LENGTH)
        self._bands, self._rows = lsh.b, lsh.r
        # Reused for every question: constructing one costs more than hashing with it.
        self._signature = MinHash(num_perm=SIGNATURE_LENGTH)
        self._seen = 0
        self._database = sqlite3.connect(file)
        self._database.execute("PRAGMA synchronous=OFF")  # a killed scan starts anew
        self._database.execute("CREATE TABLE questions (number INTEGER PRIMARY KEY, id, question)")
        self._database.execute("CREATE TABLE bands (band, hash, number)")
        self._database.execute("CREATE INDEX by_hash ON bands (band, hash)")

    def find(self, row_id: str, question: str) -> str | None:
        """Return the id of an earlier near duplicate; without one, store the question and return None."""
        shingles = make_shingles(question)
        self._signature.clear()
        self._signature.update_batch([shingle.encode() for shingle in sorted(shingles)])
        values = self._signature.hashvalues
        hashes = [values[band * self._rows : (band + 1) * self._rows].tobytes() for band in range(self._bands)]
        for band, hashed in enumerate(hashes):
            for other_id, other in self._database.execute(
                "SELECT id, question FROM bands JOIN questions USING (number) WHERE band = ? AND hash = ?",
                (band, hashed),
            ):
                if jaccard(shingles, make_shingles(other)) >= self.similarity:
                    return other_id
        self._seen += 1
        self._database.execute("INSERT INTO questions VALUES (?, ?, ?)", (self._seen, row_id, question))
        self._database.executemany(
            "INSERT INTO bands VALUES (?, ?, ?)",
            [(band, hashed, self._seen) for band, hashed in enumerate(hashes)],
        )
        if self._seen % COMMIT_EVERY == 0:
            self._database.commit()
        return None

    def close(self) -> None:
        self._database.close()


def make_shingles(question: str) -> set[str]:
    """Return words and pairs of neighboring words; case and punctuation do not count."""
    words = re.findall(r"[^\W_]+", question.lower())
    return {*words, *(" ".join(pair) for pair in itertools.pairwise(words))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Return the Jaccard similarity; two empty sets are equal."""
    return len(a & b) / len(a | b) if a or b else 1.0
