"""The instrumentors of the SDKs that are compared; all but ours are in `.venv/company`, see `make company`."""

from enum import Enum
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".venv" / "company"


class Instrumentor(Enum):
    """An instrumentor; the value names its folder."""

    LOCO = "loco_otel"
    OFFICIAL = "official"
    OPENLLMETRY = "openllmetry"
    OPENINFERENCE = "openinference"
    CONTRACT = "contract"
    """The spans and measurements of loco-otel, made by hand."""

    @property
    def folder(self) -> Path:
        """The folder where it is installed; ours is in `.venv` itself."""
        return FOLDER / self.value

    def instrument(self) -> None:
        """Instrument openai, in this process."""
        if self is Instrumentor.LOCO:
            import_module("loco_otel").install()
        elif self is Instrumentor.CONTRACT:
            import_module("benchmarks.contract").instrument()
        else:
            import_module(_MODULES[self]).OpenAIInstrumentor().instrument()


_MODULES = {
    Instrumentor.OFFICIAL: "opentelemetry.instrumentation.genai.openai",
    Instrumentor.OPENLLMETRY: "opentelemetry.instrumentation.openai",
    Instrumentor.OPENINFERENCE: "openinference.instrumentation.openai",
}
