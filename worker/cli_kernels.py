"""The command `modelvigil compile-kernels`: for installers, so that no start has to compile."""

import time

import click

from worker.cli_options import ALWAYS, ExitCode, exit_codes, explained


@click.command("compile-kernels", epilog=exit_codes(*ALWAYS, ExitCode.CONFIGURATION))
def compile_kernels() -> int:
    """Compile everything now that the first start would compile.

    Workers are then ready in seconds. What is compiled is kept in NUMBA_CACHE_DIR, if that is set, else beside the
    program or, where that cannot be written to, in the user's cache. It is for this version and this kind of CPU; when
    all of it is there already, nothing is done.

    \b
    Example:
      modelvigil compile-kernels
    """
    with explained():
        from worker.core.warm_up import compile_kernels as compile_all  # noqa: PLC0415 - Rule 2 of cli
        from worker.edges.kernel_cache import KernelCache  # noqa: PLC0415 - Rule 2 of cli

        begun = time.monotonic()
        cache = KernelCache.of_this_program()
        cache.complete(compile_all, lambda text: click.echo(text, err=True))
    click.echo(f"kernels ready in {cache.folder} after {time.monotonic() - begun:.1f} s")
    return ExitCode.DONE
