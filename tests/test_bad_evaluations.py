"""Every bad input of the commands of eval/ and retrieval/: what the user sees."""

import bad_evaluations
import bad_searches
import pytest

CASES = {
    f"{script}: {name}": (main, *case)
    for script, (main, cases) in (bad_evaluations.GROUPS | bad_searches.GROUPS).items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_said(name, tmp_path, capsys):
    main, make, code, text = CASES[name]
    arguments = make(tmp_path)
    try:
        received = main(arguments)
    except SystemExit as stopped:  # argparse's way to end with a usage error
        received = stopped.code
    output = "".join(capsys.readouterr())
    assert (received, text in output) == (code, True), output
    assert "Traceback" not in output
