"""Refuse a guide whose latent sites are not the model's."""

from __future__ import annotations

from collections.abc import Mapping

from pyro.poutine import Trace

from pyrometa.program.traces import latents, listed


def check_sites(guide: Trace, model: Trace, lines: Mapping[str, str]) -> None:
    """Refuse a guide whose latent sites are not the model's.

    Args:
        guide: a trace of the guide.
        model: of the model.
        lines: where the program samples each site, as far as it is known.

    Raises:
        ValueError: naming the sites.
    """
    in_guide, in_model = latents(guide), latents(model)
    missing = [name for name, site in in_model.items() if name not in in_guide and not site["infer"].get("enumerate")]
    if missing:
        raise ValueError(
            f"the guide has no site for {listed(missing)} of the model (it has {listed(in_guide) or 'none'}): "
            f"add a pyro.sample of that name to the guide, or enumerate the site{_at(lines, missing[0])}"
        )
    extra = [
        name for name, site in in_guide.items() if name not in model.nodes and not site["infer"].get("is_auxiliary")
    ]
    if extra:
        raise ValueError(
            f"the guide samples {listed(extra)}, which the model does not have (it has {listed(in_model) or 'none'})"
            f': rename the site, or mark it infer={{"is_auxiliary": True}}{_at(lines, extra[0])}'
        )


def _at(lines: Mapping[str, str], site: str) -> str:
    return f" ({lines[site]})" if site in lines else ""
