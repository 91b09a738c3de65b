"""The engine ``vllm_v1``: what the scheduler of vLLM's V1 decides, step by step."""
