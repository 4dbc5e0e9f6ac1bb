from tests.fer_assets.commands.conftest import Fer, refused


def test_the_card_of_a_student_that_was_not_made(fer: Fer) -> None:
    refused(fer("card", "-p", "sample"), "student_bundle", "code: asset-not-made")


def test_the_card_of_the_student_that_ships(fer: Fer) -> None:
    done = fer("card")
    assert done.returncode == 0, done.stderr
    assert "Verified: these bytes are small_bundles" in done.stdout
