//! What the Hub says of a large file's upload enters, the file's parts leave, each with its address; answers of the store enter,
//! the list that closes the upload leaves. Nothing is sent from here.
//!
//! Files above a size of the Hub's choosing are sent in parts: the upload's `header` then holds `chunk_size` and an address for
//! each part under its number, from 1; `href` is told the parts' ETags at the end.

use serde_json::{Value, json};

use super::http::{self, Answer};

/// The parts of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// Bytes of each part but the last, which may be shorter.
    pub chunk: usize,
    /// Where the parts go, in order.
    pub urls: Vec<&'a str>,
}

/// The parts that an upload asks for; None: the file goes as a whole. Err: what the answer has wrong.
pub(super) fn parts(upload: &Value, size: usize) -> Result<Option<Parts<'_>>, String> {
    let header = &upload["header"];
    let chunk = match &header["chunk_size"] {
        Value::Null => return Ok(None),
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| usize::try_from(number).ok()),
    };
    let Some(chunk) = chunk.filter(|&chunk| chunk > 0) else {
        return Err(format!("its chunk_size is {}", header["chunk_size"]));
    };
    fn numbered<'a>((key, url): (&String, &'a Value)) -> Option<(usize, &'a str)> {
        let number = key.bytes().all(|byte| byte.is_ascii_digit()).then(|| key.parse::<usize>().ok())??;
        Some((number, url.as_str()?))
    }
    let mut named: Vec<(usize, &str)> =
        header.as_object().into_iter().flatten().filter_map(numbered).collect();
    named.sort_unstable();
    let wanted = size.div_ceil(chunk);
    if !named.iter().map(|(number, _)| *number).eq(1..=wanted) {
        let found: Vec<String> = named.iter().map(|(number, _)| number.to_string()).take(20).collect();
        return Err(format!(
            "{size} bytes in parts of {chunk} are {wanted} parts, it has addresses for the parts [{}]",
            found.join(", ")
        ));
    }
    Ok(Some(Parts { chunk, urls: named.into_iter().map(|(_, url)| url).collect() }))
}

/// The ETag that the store gave a part. Err: it gave none.
pub(super) fn etag(answer: &Answer, number: usize) -> Result<String, String> {
    let etag = http::header(answer, "etag").filter(|etag| !etag.is_empty());
    etag.map(str::to_owned).ok_or_else(|| format!("the store gave part {number} no ETag"))
}

/// The body that closes the upload.
pub(super) fn completion(oid: &str, etags: &[String]) -> Value {
    let part = |(index, etag): (usize, &String)| json!({"partNumber": index + 1, "etag": etag});
    json!({"oid": oid, "parts": etags.iter().enumerate().map(part).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_in_their_order_whatever_the_spelling_of_the_numbers() {
        let mut header = json!({"chunk_size": "10"});
        for number in 1..=11 {
            header[if number % 2 == 0 { format!("{number}") } else { format!("{number:05}") }] =
                json!(format!("u{number}"));
        }
        let upload = json!({"href": "h", "header": header});
        let urls: Vec<String> = (1..=11).map(|number| format!("u{number}")).collect();
        for size in [101, 110] {
            let found = parts(&upload, size).unwrap().unwrap();
            assert_eq!((found.chunk, found.urls), (10, urls.iter().map(String::as_str).collect()));
        }
        assert!(parts(&upload, 100).unwrap_err().contains("10 parts"));
        assert!(parts(&upload, 111).is_err());
        assert_eq!(parts(&json!({"href": "h", "header": {"X-A": "1"}}), 5), Ok(None));
        assert_eq!(parts(&json!({"href": "h"}), 5), Ok(None));
    }

    #[test]
    fn wrong_answers_are_told() {
        for (header, said) in [
            (json!({"chunk_size": "0", "1": "u"}), "chunk_size is \"0\""),
            (json!({"chunk_size": "ten", "1": "u"}), "chunk_size is \"ten\""),
            (json!({"chunk_size": -5, "1": "u"}), "chunk_size is -5"),
            (json!({"chunk_size": 3, "1": "u", "3": "u"}), "2 parts, it has addresses for the parts [1, 3]"),
            (json!({"chunk_size": 3, "1": "u", "2": 7}), "the parts [1]"),
            (json!({"chunk_size": 3, "01": "u", "1": "u"}), "the parts [1, 1]"),
            (json!({"chunk_size": 3, "0": "u", "1": "u"}), "the parts [0, 1]"),
        ] {
            let found = parts(&json!({"header": header}), 5).unwrap_err();
            assert!(found.contains(said), "{found}");
        }
    }
}
