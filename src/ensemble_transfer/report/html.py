"""Pages from templates. Every text that a template is given is escaped."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def rendered(template: str, **values: object) -> str:
    """Return the page that a template of ``templates/`` makes of values; one that it lacks is an error."""
    environment = Environment(
        loader=PackageLoader("ensemble_transfer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
