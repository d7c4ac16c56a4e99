"""The suite of full weights on vLLM as it is, where the engine has a GPU."""

from tests.vllm.test_full import *  # noqa: F403
