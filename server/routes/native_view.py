"""A generation as LoRAX clients see it."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import chain

import msgspec
from msgspec import UNSET, Raw

from lorax_serve.ipc.messages import Generate
from lorax_serve.server.admission import Accepted
from lorax_serve.server.error_replies import Failure
from lorax_serve.server.generation import (
    Answer,
    End,
    Finish,
    GeneratedToken,
    Piece,
    best_first,
)
from lorax_serve.server.long_lists import json_list
from lorax_serve.server.schema.native import (
    AlternativeToken,
    BestOfSequence,
    Details,
    Parameters,
    PrefillToken,
    Reply,
    StreamDetails,
    StreamEvent,
    Token,
)
from lorax_serve.server.text.tokenizer import Tokenizer

FINISH_REASON = {
    End.EOS: "eos_token",
    End.STOP_TOKEN: "stop_sequence",
    End.STOP_STRING: "stop_sequence",
    End.LENGTH: "length",
}


class NativeView:
    """One request's. A stop string stays in the text, so no text is ever held back for one."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        accepted: Accepted,
        asked: Parameters,
        inputs: str,
        *,
        as_list: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_ids = accepted.message.prompt_token_ids
        self._asked = asked
        self._prefix = inputs if asked.return_full_text else ""
        self._seeds = [_shown_seed(asked, message) for message in accepted.messages]
        self._as_list = as_list

    def reply(self, answers: Sequence[Answer]) -> bytes:
        """The best answer, by mean logprob where there are several."""
        best = best_first(answers)[0]
        details = self._details(best, answers) if self._asked.shows_details else UNSET
        reply = Reply(self._prefix + best.finish.text, details)
        return msgspec.json.encode([reply] if self._as_list else reply)

    async def frames(self, source: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        """One event for each token; the last one carries the whole text."""
        async with aclosing(source):
            async for piece in source:
                for token in piece.tokens[:-1]:
                    yield msgspec.json.encode(StreamEvent(self._token(token)))
                for token in piece.tokens[-1:]:
                    yield msgspec.json.encode(self._last_of_piece(token, piece))

    def error_frame(self, failure: Failure) -> bytes:
        return failure.native_body()

    def _details(self, best: Answer, answers: Sequence[Answer]) -> Details:
        """The first answer has the prompt's logprobs: the others have the same."""
        prefill = Raw(json_list(self._prefill(answers[0])))
        others = tuple(
            self._other(answer, seed, prefill)
            for answer, seed in zip(answers, self._seeds, strict=True)
            if answer is not best
        )
        return Details(
            finish_reason=FINISH_REASON[best.finish.end],
            prompt_tokens=len(self._prompt_ids),
            generated_tokens=len(best.tokens),
            skipped_tokens=0,
            seed=next(
                seed for seed, each in zip(self._seeds, answers, strict=True) if each is best
            ),
            prefill=prefill,
            tokens=Raw(json_list(map(self._token, best.tokens))),
            best_of_sequences=others or UNSET,
        )

    def _other(self, answer: Answer, seed: int | None, prefill: Raw) -> BestOfSequence:
        return BestOfSequence(
            generated_text=self._prefix + answer.finish.text,
            finish_reason=FINISH_REASON[answer.finish.end],
            generated_tokens=len(answer.tokens),
            seed=seed,
            prefill=prefill,
            tokens=Raw(json_list(map(self._token, answer.tokens))),
        )

    def _prefill(self, answer: Answer) -> Iterator[PrefillToken]:
        """None unless they were asked for."""
        if not self._asked.decoder_input_details:
            return
        logprobs = chain((None,), (entry.logprob for entry in answer.prompt_logprobs))
        for token_id, logprob in zip(self._prompt_ids, logprobs, strict=True):
            yield PrefillToken(token_id, self._tokenizer.token_text(token_id), logprob)

    def _last_of_piece(self, token: GeneratedToken, piece: Piece) -> StreamEvent:
        if piece.finish is None:
            return StreamEvent(self._token(token))
        details = self._stream_details(piece, piece.finish) if self._asked.details else None
        return StreamEvent(self._token(token), self._prefix + piece.finish.text, details)

    def _stream_details(self, piece: Piece, finish: Finish) -> StreamDetails:
        return StreamDetails(
            finish_reason=FINISH_REASON[finish.end],
            prompt_tokens=len(self._prompt_ids),
            generated_tokens=piece.num_tokens,
            seed=self._seeds[0],
        )

    def _token(self, token: GeneratedToken) -> Token:
        """A special token shows its own spelling, though it is no part of the text."""
        alternatives = tuple(
            AlternativeToken(token_id, self._tokenizer.token_text(token_id), logprob)
            for token_id, logprob in token.logprob.top
        )
        return Token(
            id=token.id,
            text=self._tokenizer.token_text(token.id) if token.special else token.text,
            logprob=token.logprob.logprob,
            special=token.special,
            alternative_tokens=alternatives if self._asked.return_k_alternatives else UNSET,
        )


def _shown_seed(asked: Parameters, message: Generate) -> int | None:
    if not asked.samples:
        return None
    return message.sampling.seed if asked.seed is None else asked.seed
