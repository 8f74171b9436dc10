"""Writing converted checkpoints that the ordinary tools load."""

from gqasearch.checkpoints.by_group import merged_by_group
from gqasearch.checkpoints.card import CardFacts, MetricRow, healed_card, model_card
from gqasearch.checkpoints.config_json import stock_config
from gqasearch.checkpoints.gguf_export import GgufExport, export_gguf
from gqasearch.checkpoints.healed import write_healed
from gqasearch.checkpoints.layout import Layout, lay_out, slots
from gqasearch.checkpoints.plan import check_target, plan_checkpoint, plan_layout
from gqasearch.checkpoints.remote_code import needs_remote_code, require_own_code, require_trust
from gqasearch.checkpoints.stock import write_checkpoint

__all__ = [
    "CardFacts",
    "GgufExport",
    "Layout",
    "MetricRow",
    "check_target",
    "export_gguf",
    "healed_card",
    "lay_out",
    "merged_by_group",
    "model_card",
    "needs_remote_code",
    "plan_checkpoint",
    "plan_layout",
    "require_own_code",
    "require_trust",
    "slots",
    "stock_config",
    "write_checkpoint",
    "write_healed",
]
