"""A text that tokenizers are compared on."""

SAMPLE = (
    "The quick brown fox, 1 234.5 times!  Über naïve cafés; 你好世界 — Привет, мир. नमस्ते\n"
    "def f(x):\n\tif x == 10:\n        return [x**2]  # 🙂 <b>don't</b>\n"
)
