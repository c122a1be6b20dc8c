"""Subjects that read tokens: language models, sentence embeddings, chemical reactions, proteins."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.real.loading import load
from benchmarks.real.shipped import fetched
from benchmarks.real.subject import Inputs, Sense, Subject

TEXTS = (
    "Water boils at one hundred degrees",
    "The capital of France is",
    "She opened the window because the room was",
    "My brother plays the piano and my sister plays the",
    "If it rains tomorrow, we will stay at",
)
#: How a text goes on, and what is looked for in that. (Two countries are told before the third: models that
#: were not trained on instructions may go on "The capital of France is" by "the capital of the country".)
GOES_ON = {
    "Water boils at one hundred degrees": ("celsius",),
    "The capital of Germany is Berlin. The capital of Italy is Rome. The capital of France is": ("paris",),
    "My brother plays the piano and my sister plays the": ("violin", "guitar", "flute", "drums", "cello", "piano"),
}
LENGTHS = (16, 128, 512, 2048)


# ------------------------------------------------------------------------------------------------ language
@dataclass
class Language(Subject):
    """A decoder: explained is the next token."""

    tokenizer: Any = None

    def words(self, inputs: Inputs) -> list[str]:
        return [repr(self.tokenizer.decode(i)) for i in inputs["input_ids"][0].tolist()]

    def of_length(self, tokens: int) -> Inputs:
        ids = self.tokenizer(". ".join(TEXTS * (tokens // 32 + 1)), return_tensors="pt").input_ids[:, :tokens]
        return {"input_ids": ids}

    def sense(self) -> Sense:
        said, right = [], True
        for text, expected in GOES_ON.items():
            ids = self.tokenizer(text, return_tensors="pt").input_ids
            model: Any = self.model
            written = model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=self.pad)[0, ids.shape[1] :]
            said.append(self.tokenizer.decode(written))
            right = right and any(word in said[-1].lower() for word in expected)
        return Sense("how texts go on", " / ".join(f"{t}*{s.strip()}*" for t, s in _beside(GOES_ON, said)), right)


def _beside(texts: Any, said: list[str]) -> list[tuple[str, str]]:
    return [(f"{text} ... ", " ".join(s.split())) for text, s in zip(texts, said, strict=True)]


def language(name: str) -> Language:
    model, tokenizer = load(name)
    examples = [{"input_ids": tokenizer(text, return_tensors="pt").input_ids} for text in TEXTS]
    return Language(model, examples, "input_ids", lengths=LENGTHS, tokenizer=tokenizer)


# ------------------------------------------------------------------------------------------------ sentences
ALIKE = (
    ("Someone is playing an instrument", "A man strums his guitar", "The stock market fell sharply today"),
    ("How do I reset my password?", "I forgot the code of my account and need a new one", "The river is cold in March"),
    ("The database does not answer", "Queries time out since the last deployment", "We had lunch in the garden"),
)
#: What the first sentence above is compared with when it is explained: all of them are somewhat like it.
COMPARED = (
    "A man strums his guitar",
    "She plays the violin on a stage in front of a large crowd",
    "The band performs a song",
    "My brother is learning to play the piano",
    "A drummer and a singer rehearse in the cellar",
)


class Embedder(nn.Module):
    """The mean of an encoder's rows, normalised, as the package's own list of modules has it."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.encoder.get_input_embeddings()
        return found

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        rows = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds
        ).last_hidden_state
        kept = torch.ones_like(rows[..., :1]) if attention_mask is None else attention_mask.unsqueeze(-1).to(rows.dtype)
        return nn.functional.normalize((rows * kept).sum(1) / kept.sum(1), dim=-1)


@dataclass
class Sentence(Subject):
    """An embedding of a sentence: explained is its similarity to that of another."""

    tokenizer: Any = None

    def rows(self, inputs: Inputs) -> None:
        return None

    def of_length(self, tokens: int) -> Inputs:
        return _read(self.tokenizer, ". ".join(TEXTS * (tokens // 32 + 1)), tokens)

    def sense(self) -> Sense:
        said, right = [], True
        for texts in ALIKE:
            with torch.no_grad():
                first, near, far = (self.model(**_read(self.tokenizer, text))[0] for text in texts)
            said.append(f"{float(first @ near):.2f} and {float(first @ far):.2f}")
            right = right and bool(first @ near > first @ far + 0.1)
        return Sense("similarity to a paraphrase, and to another sentence", ", ".join(said), right)


def _read(tokenizer: Any, text: str, length: int | None = None) -> Inputs:
    cut = {} if length is None else {"truncation": True, "max_length": length}
    return {"input_ids": tokenizer(text, return_tensors="pt", **cut).input_ids}


def sentence(name: str) -> Sentence:
    import transformers

    (weights,) = fetched(name).glob("*/*/model.safetensors")
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights.parent)
    encoder = transformers.AutoModel.from_pretrained(weights.parent, dtype=torch.float32)
    model = Embedder(encoder).eval().requires_grad_(False)
    with torch.no_grad():
        reference = model(**_read(tokenizer, ALIKE[0][0]))[0]
    examples = [_read(tokenizer, text) for text in COMPARED]
    lengths = tuple(n for n in LENGTHS if n <= encoder.config.max_position_embeddings)
    return Sentence(model, examples, "input_ids", lengths=lengths, vector=reference, tokenizer=tokenizer)


# ------------------------------------------------------------------------------------------------ masked tokens
#: Tokens of reactions in SMILES: atoms in brackets, elements of two letters, bonds, rings, the arrow.
SMILES = re.compile(r"\[[^\]]+]|Br?|Cl?|%\d\d|>>|.")
REACTIONS = (
    "CC(=O)Cl.OCCc1ccccc1>>CC(=O)OCCc1ccccc1",
    "CC(=O)O.OCC>>CC(=O)OCC",
    "OB(O)c1ccccc1.Brc1ccccn1>>c1ccc(-c2ccccn2)cc1",
    "NCc1ccccc1.OC(=O)C1CC1>>O=C(NCc1ccccc1)C1CC1",
    "O=Cc1ccc(Cl)cc1>>OCc1ccc(Cl)cc1",
)
#: Variable domains: trastuzumab's heavy and light one, adalimumab's, and the first half of one.
ANTIBODIES = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
    "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK",
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTR",
)


@dataclass
class Masked(Subject):
    """An encoder that fills in a masked token: explained is the one that it puts in the place of the last but five."""

    vocabulary: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    piece: re.Pattern[str] = SMILES
    enough: float = 0.0

    def read(self, text: str, masked: int | None) -> Inputs:
        """A text between the two tokens that such models put around it, with one token masked."""
        number = {token: i for i, token in enumerate(self.vocabulary)}
        inside = [number[token] for token in self.piece.findall(text)]
        ids = [number["[CLS]"], *inside, number["[SEP]"]]
        if masked is not None:
            ids[masked] = number["[MASK]"]
        return {"input_ids": torch.tensor([ids])}

    def rows(self, inputs: Inputs) -> list[int]:
        return [int(n) - 6 for n in self.kept(inputs)]

    def of_length(self, tokens: int) -> Inputs:
        inside = self.piece.findall("".join(self.texts) * (tokens // 50 + 1))[: tokens - 2]
        return self.read("".join(inside), tokens - 6)

    def sense(self) -> Sense:
        right = tried = 0
        for text in self.texts[:2]:
            whole = self.read(text, None)["input_ids"][0]
            for place in range(1, len(whole) - 1):
                with torch.no_grad():
                    row = self.output(self.read(text, place))[0, place]
                right, tried = right + int(row.argmax() == whole[place]), tried + 1
        said = f"{right} of {tried} put back"
        return Sense("each token masked in turn", said, right >= self.enough * tried)


def _masked(
    model: nn.Module, vocabulary: Path, texts: tuple[str, ...], piece: str | re.Pattern[str], enough: float
) -> Masked:
    tokens = tuple(line.rstrip("\n") for line in vocabulary.open(encoding="utf-8"))
    subject = Masked(
        model.eval().requires_grad_(False),
        [],
        "input_ids",
        lengths=tuple(n for n in LENGTHS if n <= 512),
        vocabulary=tokens,
        texts=texts,
        piece=re.compile(piece),
        enough=enough,
    )
    for text in texts:
        length = len(subject.read(text, None)["input_ids"][0])
        subject.examples.append(subject.read(text, length - 6))
    return subject


def reactions(name: str) -> Masked:
    import transformers

    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()  # of the pooler, which fills in no token
    (weights,) = fetched(name).glob("*/models/transformers/*/pytorch_model.bin")
    model = transformers.AlbertForMaskedLM.from_pretrained(weights.parent, dtype=torch.float32)
    return _masked(model, weights.parent / "vocab.txt", REACTIONS, SMILES, 0.85)


def antibodies(name: str) -> Masked:
    import transformers

    (weights,) = fetched(name).glob("*/trained_models/*/pytorch_model.bin")
    given = json.loads((weights.parent / "config.json").read_text())
    config = transformers.BertConfig(**{n: v for n, v in given.items() if n not in ("architectures", "model_type")})
    model = transformers.BertForMaskedLM(config)
    kept = torch.load(weights, map_location="cpu", weights_only=True)
    missing = model.load_state_dict(kept, strict=False).missing_keys  # its heads for species and chain are left out
    assert not missing, missing
    return _masked(model, weights.parent.parent / "vocab.txt", ANTIBODIES, ".", 0.7)
