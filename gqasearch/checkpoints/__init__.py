"""Writing converted checkpoints that the ordinary tools load."""

from gqasearch.checkpoints.card import CardFacts, MetricRow, model_card
from gqasearch.checkpoints.config_json import stock_config
from gqasearch.checkpoints.layout import Layout, lay_out, plan_layout, slots
from gqasearch.checkpoints.stock import write_checkpoint

__all__ = [
    "CardFacts",
    "Layout",
    "MetricRow",
    "lay_out",
    "model_card",
    "plan_layout",
    "slots",
    "stock_config",
    "write_checkpoint",
]
