"""Documents of the index that the tests of frameworks share, and a question."""

from __future__ import annotations

from openclara.types import Document

LONG = "The opera house in Sydney was designed by the architect Utzon. It opened in 1973. " * 3
DOCUMENTS = [
    Document("opera", LONG, "Opera house", "places/opera.txt", {"year": 1973, "lang": "en"}),
    Document("river/angara", "The Angara flows out of Lake Baikal.", "Angara", "", {"year": 2001}),
    Document("train", "The first train left the station of York.", "", "", {"lang": "de"}),
    Document("tower", "A tower of iron stands beside the river.", "Tower", "", {"year": 1889}),
]
QUESTION = "Who designed the opera house?"
