//! Queries.

use super::*;

#[test]
fn pairs_are_decoded_in_order() {
    let query = Query::parse("a=1&b=x+y%2Bz&&a=2&c&%61=3").expect("a query");
    let values = |key: &str| query.values(key).collect::<Vec<_>>();
    assert_eq!(values("a"), ["1", "2", "3"]);
    assert_eq!(values("b"), ["x y+z"]);
    assert_eq!(values("c"), [""]);
    assert!(values("d").is_empty());
    assert_eq!(Query::parse(""), Ok(Query::default()));
}

#[test]
fn what_servers_read_differently_is_unknown() {
    for (raw, error) in [
        ("a=1;b=2", QueryError::Semicolon),
        ("a=%zz", QueryError::Escape),
        ("a=%4", QueryError::Escape),
        ("%ff=1", QueryError::Escape),
    ] {
        assert_eq!(Query::parse(raw), Err(error), "{raw}");
    }
    let many = "a&".repeat(QUERY_PAIRS_MAX);
    assert!(Query::parse(&many).is_ok());
    assert_eq!(Query::parse(&format!("{many}a")), Err(QueryError::TooMany));
}
