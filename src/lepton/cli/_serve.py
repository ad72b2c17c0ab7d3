"""`lepton serve`: an exported model behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton.cli._output import Json, Output, Plain, Quiet

__all__ = ["serve"]


def serve(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `lepton export RUN` wrote.")],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 for one that is free.")] = 8000,
    threads: Annotated[int | None, typer.Option(help="Threads of one prediction; by default ONNX Runtime's.")] = None,
    max_batch: Annotated[int, typer.Option(help="Rows that are predicted at a time.")] = 64,
    max_wait_ms: Annotated[float, typer.Option(help="Milliseconds that a batch waits to be full.")] = 5.0,
    max_queue: Annotated[int, typer.Option(help="Rows that wait; further ones get 503.")] = 1024,
    max_rows: Annotated[int, typer.Option(help="Rows of one request.")] = 1000,
    max_body_mb: Annotated[float, typer.Option(help="Megabytes of one request.")] = 8.0,
    max_pixels: Annotated[int, typer.Option(help="Pixels of one picture.")] = 16_000_000,
    timeout: Annotated[float, typer.Option(help="Seconds until a request is given up with 503.")] = 30.0,
    read_timeout: Annotated[float, typer.Option(help="Seconds in which a request must have come.")] = 10.0,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Serve an exported model by HTTP until Ctrl-C or SIGTERM: /predict, a page to try it, /metrics.

    Example: lepton serve runs/houses/export --port 8000
    """
    from lepton.export import ExportedModel
    from lepton.serve import Limits
    from lepton.serve import serve as run

    out = Output(json_, quiet, plain)
    limits = Limits(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_rows=max_rows,
        max_body=round(max_body_mb * 1e6),
        max_pixels=max_pixels,
        timeout=timeout,
        read_timeout=read_timeout,
    )
    model = ExportedModel(folder, threads=threads)

    def started(address: str) -> None:
        out.show(f"Serving {', '.join(model.tasks)} at {address} (Ctrl-C ends it).")
        out.result({"address": address, "tasks": model.tasks})

    run(model, host=host, port=port, limits=limits, started=started)
