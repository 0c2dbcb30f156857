//! Tag expressions, compared by hash.

use wire::text::java_hash;

/// Expression type of tag filters; absent and empty count as it. Java: `ExpressionType.TAG`.
pub const TAG: &str = "TAG";

/// Whether an expression type means a tag filter. Java: `ExpressionType.isTagType`.
pub fn is_tag_type(expression_type: &str) -> bool {
    expression_type.is_empty() || expression_type == TAG
}

/// An expression without any tag, such as `||`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the expression {0:?} names no tag; use * or tags separated by ||")]
pub struct NoTag(pub String);

/// A parsed tag expression.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagFilter {
    /// Tags in the order of the expression; empty for everything.
    pub tags: Vec<String>,
    codes: Vec<i32>,
}

impl TagFilter {
    /// Parses `*`, nothing, or `a || b`. Java: `FilterAPI.buildSubscriptionData`.
    pub fn parse(expression: &str) -> Result<TagFilter, NoTag> {
        if expression.is_empty() || expression == "*" {
            return Ok(TagFilter::default());
        }
        let tags = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty());
        let tags: Vec<String> = tags.map(str::to_owned).collect();
        if tags.is_empty() {
            return Err(NoTag(expression.to_owned()));
        }
        let codes = tags.iter().map(|tag| java_hash(tag)).collect();
        Ok(TagFilter { tags, codes })
    }

    /// Whether everything is wanted.
    pub fn is_all(&self) -> bool {
        self.codes.is_empty()
    }

    /// Whether an entry with this tag hash may match. Different tags can share a hash: the client
    /// compares the text.
    pub fn matches(&self, tags_code: i64) -> bool {
        // Below every hash: an address in Java's consume queue extension, where the hash is. It is
        // not read here; the client compares the text anyway.
        self.codes.is_empty()
            || tags_code < i64::from(i32::MIN)
            || self.codes.contains(&(tags_code as i32))
    }

    /// The hashes, in the order of the tags.
    pub fn codes(&self) -> &[i32] {
        &self.codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_expressions_match_by_hash() {
        let filter = TagFilter::parse(" TagA || TagB|| ").expect("tags");
        assert_eq!((filter.tags.len(), filter.codes()), (2, &[2_598_919, 2_598_920][..]));
        assert!(filter.matches(2_598_920) && !filter.matches(0));
        // A negative hash is sign-extended in the queue.
        let negative = TagFilter::parse("zzzzzzzz").expect("tag");
        assert!(negative.matches(i64::from(java_hash("zzzzzzzz"))));
        for all in ["", "*"] {
            assert!(TagFilter::parse(all).expect("all").matches(7));
        }
        assert!(negative.matches(i64::from(i32::MIN) - 1), "an address of the extension");
        assert!(TagFilter::parse(" || ").is_err());
    }
}
