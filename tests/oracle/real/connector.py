"""A connector that brings the KV of a prompt from another node, as far as the scheduler asks."""

from __future__ import annotations

from typing import Any


class RemotePrefill:
    """Prompts come prefilled: at once (``sync``), or after the step that reserved their blocks.

    A request is fetched once; after a preemption it is computed here, unless ``again``.
    """

    supports_divergent_local_hybrid_hits = False
    requires_kv_delivery = False

    def __init__(self, mode: str, again: bool) -> None:
        self.mode, self.again = mode, again
        self.fetched: set[str] = set()
        self.on_the_way: list[str] = []

    def get_num_new_matched_tokens(self, request: Any, here: int) -> tuple[int, bool]:
        if request.request_id in self.fetched and not self.again:
            return 0, False
        waits = self.mode == "async"
        missing = request.num_tokens - here - (0 if waits else 1)
        return (missing, waits) if missing > 0 else (0, False)

    def update_state_after_alloc(self, request: Any, blocks: Any, elsewhere: int) -> None:
        if elsewhere > 0:
            self.fetched.add(request.request_id)
            if self.mode == "async":
                self.on_the_way.append(request.request_id)

    def arrived(self) -> set[str]:
        """Return whose KV has come since the last call."""
        arrived, self.on_the_way = set(self.on_the_way), []
        return arrived

    def has_pending_block_frees(self) -> bool:
        return False

    def get_loaded_kv_cache_group_ids(self, request: Any) -> tuple:
        return ()

    def build_connector_meta(self, decided: Any) -> None:
        return None

    def on_new_request(self, request: Any) -> None:
        return None

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return False, None

    def take_events(self) -> tuple:
        return ()

    def get_kv_connector_stats(self) -> None:
        return None

    def update_connector_output(self, output: Any) -> None:
        return None
