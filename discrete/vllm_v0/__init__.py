"""The engine ``vllm_v0``: the scheduler of vLLM before its V1 engine, decision by decision."""
