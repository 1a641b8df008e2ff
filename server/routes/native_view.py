"""A generation as LoRAX clients see it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec import UNSET

from lorax_serve.server.admission import Accepted
from lorax_serve.server.error_replies import Failure
from lorax_serve.server.generation import Answer, End, Finish, GeneratedToken, Piece
from lorax_serve.server.schema.native import (
    AlternativeToken,
    Details,
    Parameters,
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
        self._num_prompt_tokens = accepted.num_prompt_tokens
        self._asked = asked
        self._prefix = inputs if asked.return_full_text else ""
        drawn = accepted.message.sampling.seed
        self._seed = (drawn if asked.seed is None else asked.seed) if asked.samples else None
        self._as_list = as_list

    def reply(self, answer: Answer) -> bytes:
        details = self._details(answer) if self._asked.details else UNSET
        reply = Reply(self._prefix + answer.finish.text, details)
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

    def _details(self, answer: Answer) -> Details:
        return Details(
            finish_reason=FINISH_REASON[answer.finish.end],
            prompt_tokens=self._num_prompt_tokens,
            generated_tokens=len(answer.tokens),
            skipped_tokens=0,
            seed=self._seed,
            prefill=(),
            tokens=tuple(map(self._token, answer.tokens)),
        )

    def _last_of_piece(self, token: GeneratedToken, piece: Piece) -> StreamEvent:
        if piece.finish is None:
            return StreamEvent(self._token(token))
        details = self._stream_details(piece, piece.finish) if self._asked.details else None
        return StreamEvent(self._token(token), self._prefix + piece.finish.text, details)

    def _stream_details(self, piece: Piece, finish: Finish) -> StreamDetails:
        return StreamDetails(
            finish_reason=FINISH_REASON[finish.end],
            prompt_tokens=self._num_prompt_tokens,
            generated_tokens=piece.num_tokens,
            seed=self._seed,
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
