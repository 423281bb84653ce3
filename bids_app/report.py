from pathlib import Path
def write_report(out_dir: Path, subject: str, errors: list[str]) -> Path:
    p = out_dir / f"sub-{subject}.html"; p.write_text("stub"); return p
