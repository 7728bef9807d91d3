"""LongCat-Flash-Lite for the Transformers library, without code from a checkpoint.

`import serval_sglang.transformers` makes `AutoConfig`, `AutoModelForCausalLM` and `AutoTokenizer` load
Meituan's files and copies re-saved by Transformers. The checkpoint's own modeling code is never read, even if
`trust_remote_code=True` is passed. Needs the extra `transformers`; SGLang is not needed.
"""

from serval_sglang.transformers.configuration import LongcatFlashNgramConfig
from serval_sglang.transformers.modeling import LongcatFlashNgramForCausalLM, LongcatFlashNgramModel
from serval_sglang.transformers.registration import register

__all__ = ["LongcatFlashNgramConfig", "LongcatFlashNgramForCausalLM", "LongcatFlashNgramModel"]

register()
