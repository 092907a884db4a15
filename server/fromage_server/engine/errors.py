"""What the engine refuses, at once and in the caller's thread.

EngineError
├── InvalidRequest       a field of a request is out of its range
├── PromptTooLong        prompt and reply together do not fit the context
├── DuplicateRequest     a request with this id is still in the engine
├── QueueFull            too many requests are waiting
├── EngineStopped        the engine's thread has ended
└── RanksLost            (the engine's own end) a process that computes along is gone

What goes wrong later, while a sequence runs, reaches its caller as an ErrorEvent.
"""


class EngineError(Exception):
    """Base of the tree; its text is one line that a user can act on."""


class InvalidRequest(EngineError):
    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {value!r}; allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


class PromptTooLong(EngineError):
    def __init__(self, prompt_tokens: int, max_tokens: int, max_context: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}: together "
            f"{prompt_tokens + max_tokens}, the context holds {max_context}"
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.max_context = max_context


class DuplicateRequest(EngineError):
    def __init__(self, request_id: str) -> None:
        super().__init__(f"a request with id {request_id!r} is already in the engine")
        self.request_id = request_id


class QueueFull(EngineError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests are waiting already, which is the limit; try again")
        self.limit = limit


class EngineStopped(EngineError):
    pass


class RanksLost(EngineError):
    pass
