//! Account ids, transaction ids, metadata and times: what is read, and what is refused.

use ledger::{
    AccountId, IdentityError, METADATA_PAIRS_MAX, METADATA_SIZE_BYTES_MAX, Metadata, Timestamp, TransactionId,
};

#[test]
fn account_ids() {
    let longest = "a".repeat(64);
    for text in
        ["a", "0", "alice", "ALICE", "a.b_c:d-e", "-", "...", "25-characters-do-not-stand-inline", &longest]
    {
        assert_eq!(AccountId::parse(text).unwrap().as_str(), text);
    }
    let too_long = "a".repeat(65);
    for text in
        ["", " ", "a b", "a ", "@external", "@a", "a@b", "a/b", "é", "a\0", "a\n", "a,b", "a+b", &too_long]
    {
        assert_eq!(AccountId::parse(text), Err(IdentityError::AccountId), "{text:?}");
    }
    for byte in 0..=u8::MAX {
        let character = char::from(byte);
        let allowed = character.is_ascii_alphanumeric() || "._:-".contains(character);
        assert_eq!(AccountId::parse(&character.to_string()).is_ok(), allowed, "{character:?}");
    }
}

#[test]
fn account_ids_tell_case_apart() {
    assert_ne!(AccountId::parse("alice"), AccountId::parse("Alice"));
}

#[test]
fn transaction_ids_in_any_case_and_version() {
    let text = "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11";
    let id = TransactionId::parse(text).unwrap();
    assert_eq!(id, TransactionId(0x0189_0d9e_3c1b_7c5f_9d6e_0b6f_0f0c_9a11));
    assert_eq!(id.to_string(), text);
    assert_eq!(TransactionId::parse(&text.to_uppercase()), Ok(id));
    assert_eq!(TransactionId::parse("01890D9E-3c1b-7C5F-9d6e-0B6f0f0c9a11"), Ok(id));
    assert_eq!(TransactionId::from_bytes(id.to_bytes()), id);
    assert_eq!(id.to_bytes()[..4], [0x01, 0x89, 0x0d, 0x9e]);
    // Nil, maximal, and version 4.
    for text in [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    ] {
        assert_eq!(TransactionId::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn what_is_no_transaction_id() {
    let rows = [
        "",
        "01890d9e",
        "01890d9e3c1b7c5f9d6e0b6f0f0c9a11",
        "{01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11}",
        "urn:uuid:01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11",
        "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a1",
        "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a111",
        "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a1g",
        "01890d9e-3c1b-7c5f-9d6e 0b6f0f0c9a11",
        "01890d9e_3c1b_7c5f_9d6e_0b6f0f0c9a11",
        "0189-0d9e3c1b-7c5f-9d6e-0b6f0f0c9a11",
        " 1890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11",
        "+1890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11",
        "-----------------------------------a",
        "é1890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a1",
    ];
    for text in rows {
        assert_eq!(TransactionId::parse(text), Err(IdentityError::TransactionId), "{text:?}");
    }
}

#[test]
fn metadata_is_sorted_and_bounded() {
    let read = |pairs: &[(&str, &str)]| Metadata::new(pairs.iter().copied());
    assert_eq!(read(&[("b", "2"), ("a", "1")]), read(&[("a", "1"), ("b", "2")]));
    assert_ne!(read(&[("a", "1")]), read(&[("a", "2")]));
    assert_eq!(read(&[]), Ok(Metadata::default()));
    assert!(read(&[]).unwrap().is_empty());
    let metadata = read(&[("order", "A-17"), ("", ""), ("é", "ü")]).unwrap();
    assert_eq!(metadata.iter().collect::<Vec<_>>(), [("", ""), ("order", "A-17"), ("é", "ü")]);
    assert_eq!(read(&[("a", "1"), ("b", ""), ("a", "2")]), Err(IdentityError::Metadata));
    assert_eq!(read(&[("a", "1"), ("a", "1")]), Err(IdentityError::Metadata));

    let keys: Vec<String> = (0..=METADATA_PAIRS_MAX).map(|index| index.to_string()).collect();
    let pairs = |count: usize| Metadata::new(keys[..count].iter().map(|key| (key.as_str(), "")));
    assert_eq!(pairs(METADATA_PAIRS_MAX).unwrap().iter().len(), METADATA_PAIRS_MAX);
    assert_eq!(pairs(METADATA_PAIRS_MAX + 1), Err(IdentityError::Metadata));

    // Bytes count, not characters, and keys count as values do.
    let filler = "é".repeat(METADATA_SIZE_BYTES_MAX / 2 - 1);
    assert!(read(&[("ab", &filler)]).is_ok());
    assert_eq!(read(&[("abc", &filler)]), Err(IdentityError::Metadata));
    assert!(read(&[("a", &filler), ("b", "")]).is_ok());
    assert_eq!(read(&[("a", &filler), ("b", "x")]), Err(IdentityError::Metadata));
}

#[test]
fn times_saturate() {
    let time = Timestamp::from_micros(5);
    assert_eq!(time.plus_seconds(2).as_micros(), 2_000_005);
    assert_eq!(time.plus_seconds(u32::MAX).as_micros(), 4_294_967_295_000_005);
    assert_eq!(Timestamp::from_micros(i64::MAX).plus_seconds(1).as_micros(), i64::MAX);
}
