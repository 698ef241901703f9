"""`report.html`: an evaluation as one page that opens offline, in any browser, for as long as browsers read HTML."""

from clipcap.caption.evaluate.report.start import write_report

__all__ = ["write_report"]
