"""Writing converted checkpoints that the ordinary tools load."""

from gqasearch.checkpoints.by_group import merged_by_group
from gqasearch.checkpoints.card import CardFacts, MetricRow, healed_card, model_card
from gqasearch.checkpoints.config_json import stock_config
from gqasearch.checkpoints.copy_heads import filled_layout, write_with_copies
from gqasearch.checkpoints.forms import LAYOUTS, LayoutForm, Ragged, Stock
from gqasearch.checkpoints.gguf_export import GgufExport, export_gguf
from gqasearch.checkpoints.healed import write_healed
from gqasearch.checkpoints.join_heads import joined_source, write_joined
from gqasearch.checkpoints.layout import Layout, lay_out, slots
from gqasearch.checkpoints.loaded_back import MOST_TOKENS, CheckBlock, LoadedBack
from gqasearch.checkpoints.plan import check_target, plan_checkpoint, plan_layout
from gqasearch.checkpoints.remote_code import (
    needs_remote_code,
    require_own_code,
    require_trust,
    runs_own_code,
    strange_code,
)
from gqasearch.checkpoints.stock import Told, Written, write_checkpoint

__all__ = [
    "LAYOUTS",
    "MOST_TOKENS",
    "CardFacts",
    "CheckBlock",
    "GgufExport",
    "Layout",
    "LayoutForm",
    "LoadedBack",
    "MetricRow",
    "Ragged",
    "Stock",
    "Told",
    "Written",
    "check_target",
    "export_gguf",
    "filled_layout",
    "healed_card",
    "joined_source",
    "lay_out",
    "merged_by_group",
    "model_card",
    "needs_remote_code",
    "plan_checkpoint",
    "plan_layout",
    "require_own_code",
    "require_trust",
    "runs_own_code",
    "slots",
    "stock_config",
    "strange_code",
    "write_checkpoint",
    "write_healed",
    "write_joined",
    "write_with_copies",
]
