from __future__ import annotations

from authz_sidecar.policy.data import Classification, load_data

DATA = load_data(
    "data.yaml",
    b"""
version: 1
classes: [public, internal, secret]
resources:
  - {pattern: "a:vip-*", class: secret, owner: vips, collections: [vip]}
  - {pattern: "a:*", class: internal, owner: all, collections: [every, vip]}
  - {pattern: "a:*-open", class: public, owner: press}
""",
)


def test_the_highest_matching_class_counts_whatever_the_order() -> None:
    assert DATA.classify("a:vip-1") == Classification(
        name="secret", level=2, owner="vips", known=True, collections=("every", "vip")
    )


def test_no_line_lowers_what_another_line_protects() -> None:
    assert DATA.classify("a:vip-open").name == "secret"
    assert DATA.classify("a:x-open").name == "internal"


def test_what_nobody_classified_has_the_worst_class_and_no_owner() -> None:
    assert DATA.classify("b:x") == Classification(name="secret", level=2, owner="", known=False)


def test_a_class_that_does_not_exist_has_no_level() -> None:
    assert [DATA.level(name) for name in ("public", "secret", "Secret", "")] == [0, 2, None, None]
