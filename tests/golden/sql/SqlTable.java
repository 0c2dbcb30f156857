import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;

/**
 * Records what the original makes of expressions: prints table.tsv. "R" stands for refused, else one
 * digit for each property set below: 1 delivered, 0 not.
 * Run: tests/golden/sql/record.sh
 */
public class SqlTable {
    static final String[][] SETS = {
        {},
        {"a", "1", "b", "2", "s", "hangzhou", "t", "true"},
        {"a", "2.5", "b", "abc", "s", "", "t", "TRUE", "n", "-3"},
        {"a", "10", "b", "10", "big", "3000000000", "s", "it's", "d", "1e3"},
        {"a", " 5", "b", "0x10", "d", "NaN", "n", "-0.0", "p", "+7", "f", "1.5f", "i", "Infinity", "s", "Aou"},
    };

    public static void main(String[] args) {
        List<String> all = new ArrayList<>();
        String[] operands = {"a", "s", "missing", "1", "-1", "2147483648", "1.5", "'1'", "'abc'", "TRUE", "NULL", "(a = 1)", "-a"};
        for (String left : operands) {
            for (String operator : new String[] {"=", "<>", ">", "<="}) {
                for (String right : operands) {
                    all.add(left + " " + operator + " " + right);
                }
            }
            for (String tail : new String[] {"IS NULL", "IS NOT NULL", "IN ('1', '10')", "NOT IN ('1')", "CONTAINS '1'",
                "NOT CONTAINS '1'", "STARTSWITH 'h'", "NOT STARTSWITH 'h'", "ENDSWITH 'ou'", "NOT ENDSWITH 'ou'", "CONTAINS ''",
                "NOT CONTAINS ''", "BETWEEN 1 AND 2", "NOT BETWEEN 1 AND 2", "", "= 1 AND b = '2'", "= 1 OR b = '2'"}) {
                all.add(left + " " + tail);
            }
            all.add("NOT " + left);
            all.add("NOT (" + left + ")");
            all.add("+ " + left);
            all.add("a BETWEEN " + left + " AND 5");
            all.add("a BETWEEN 0 AND " + left);
            all.add("a NOT BETWEEN " + left + " AND 0");
        }
        all.addAll(Arrays.asList(BY_HAND));
        for (String text : all) {
            System.out.println(text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "\t" + results(text));
        }
    }

    static String results(String text) {
        Expression compiled;
        try {
            compiled = FilterFactory.INSTANCE.get("SQL92").compile(text);
        } catch (Throwable refused) {
            return "R";
        }
        StringBuilder digits = new StringBuilder();
        for (String[] set : SETS) {
            Map<String, Object> properties = new HashMap<>();
            for (int i = 0; i < set.length; i += 2) {
                properties.put(set[i], set[i + 1]);
            }
            Object value = null;
            try {
                value = compiled.evaluate(new EvaluationContext() {
                    public Object get(String name) {
                        return properties.get(name);
                    }
                    public Map<String, Object> keyValues() {
                        return properties;
                    }
                });
            } catch (Throwable notDelivered) {
                // stays null
            }
            digits.append(Boolean.TRUE.equals(value) ? '1' : '0');
        }
        return digits.toString();
    }

    static final String[] BY_HAND = {
        "", " ", "(", ")", "a", "a =", "= 1", "a == 1", "a != 1", "a LIKE 'x'", "a + 1 = 2", "#", "a = 1 #", "a = 1 a #", "a = 1 b = 2", "a = 007",
        "a = 0L", "a = 1L", "a = 1l", "a = 1Lx", "a = 01", "a = 5.", "d = .5", "d = 1e3", "d = 1E+3", "d = 1e", "d = 1e400", "d > 1e-400", "a > 0.0",
        "a > 0.1", "a = 1.0", "a = '1.0'", "b = 10.0", "d > 999.9", "d < 1e4", "d = d", "d > d", "d >= d", "i > 1", "i > 1e300", "f > 1.4", "f = 1.5",
        "p = 7", "p > 6.5", "p = '+7'", "n < 0.1", "n > -0.1", "n = -3", "-n = 3", "n > -4", "n < -2", "big > 2147483647", "big = 3000000000",
        "big > 1", "big = 1", "big > 1.5", "a = 9223372036854775807", "a = 9223372036854775808", "a = -9223372036854775808",
        "a > -9223372036854775807", "a = 2147483647", "a = 2147483648", "b = 0x10", "b = 'abc' OR a = 1", "a = 1 OR b = 2", "b = 2 OR a = 1",
        "missing = 1 OR a = 1", "a = 1 OR missing = 1", "missing = 1 AND a = 1", "NOT (missing = 1)", "NOT (missing = 1 AND a = 5)",
        "missing = other", "missing <> other", "missing = a", "a = missing", "1 = missing", "1 <> missing", "missing <> 1", "missing IS NULL",
        "missing IS NOT NULL", "NOT missing IS NULL", "NOT (missing IS NULL)", "a IS NULL IS NULL", "a IS", "a IS NOT", "a IS 5", "a NOT", "a NOT NULL",
        "a NOT = 1", "a NOT 5", "NOT a > 5", "NOT (a > 5)", "NOT NOT (a > 5)", "NOT t", "NOT TRUE", "NOT FALSE", "NOT NULL", "NOT 1", "NOT 'x'", "TRUE",
        "FALSE", "NULL", "true", "True", "1", "'x'", "1.5", "t", "t = TRUE", "t = FALSE", "t <> TRUE", "TRUE = t", "TRUE <> t", "FALSE = t", "TRUE = TRUE",
        "TRUE = FALSE", "TRUE <> FALSE", "TRUE = 1", "1 = TRUE", "TRUE = 'true'", "'true' = TRUE", "NULL = NULL", "NULL IS NULL", "1 IS NULL",
        "(a = 1) = TRUE", "(a = 1) = (b = '2')", "(a = 1) <> (b = '2')", "(a = 1) IS NULL", "a = b", "a <> b", "a > b", "a < b", "a >= b", "s > a",
        "a = 1 = TRUE", "a = 1 = t", "a > 0 > 1", "a > 1 AND a < 9 AND b = '2'", "a > 1 OR a < 9 AND b = 'zz'", "(a > 1 OR a < 9) AND b = '2'",
        "a BETWEEN 1 AND 2 AND b = '2'", "a BETWEEN 5 AND 1", "a BETWEEN 1 AND 1", "a BETWEEN 1.5 AND 3", "a BETWEEN 1 AND 2.5", "a BETWEEN -5 AND 5",
        "a BETWEEN 5 AND -5", "a BETWEEN '1' AND '2'", "a BETWEEN NULL AND 5", "a BETWEEN b AND 20", "a BETWEEN 1 OR 2", "a NOT BETWEEN 5 AND 1",
        "1 BETWEEN 0 AND 2", "'x' BETWEEN 0 AND 2", "a BETWEEN TRUE AND FALSE", "a BETWEEN 1 AND", "a IN ()", "a IN ('1'", "a IN ('1',)", "a IN (1)",
        "a IN ('1', 2)", "a IN ('1','2','3','4','5','10')", "a NOT IN ('1','2','3','4','5','10')", "'1' IN ('1')", "(a) IN ('1')", "+a IN ('1')",
        "-a IN ('1')", "missing IN ('1')", "missing NOT IN ('1')", "a IN ('it''s')", "s IN ('it''s')", "s = 'it''s'", "s = ''", "s <> ''", "s CONTAINS ''''",
        "s CONTAINS 'zhou'", "s STARTSWITH 'hang'", "s ENDSWITH 'ou'", "s NOT CONTAINS 'x'", "missing NOT CONTAINS 'x'", "missing CONTAINS 'x'",
        "s CONTAINS s", "s CONTAINS 1", "s CONTAINS", "s NOT", "s CONTAINS 'h' CONTAINS 'h'", "s CONTAINS 'h' = TRUE", "'hangzhou' CONTAINS 'zhou'",
        "1 CONTAINS '1'", "TRUE CONTAINS 'T'", "s contains 'zhou'", "s Not StartsWith 'x'", "A = 1", "a=1and b='2'", "a=1AND(b='2')", "a=1OR b=2",
        "a = 1and b = '2'", "a<>1", "a< >1", "a > = 1", "a>=1", "a<=1", "a=<1", "_a = 1", "$a = 1", "a.b = 1", "a-b = 1", "a_1$ IS NULL", "\"a\" = 1",
        "a = \"1\"", "'a' = '1'", "'a' = 'a'", "'a' <> 'b'", "'unclosed", "a = 'unclosed", "a = 'x'y'", "a = 1 'unclosed", "a = 1 AND 'unclosed",
        "a = 1 -- comment", "a = 1 -- comment\n", "a = -- comment\n 1", "-- comment\na = 1", "a = 1 --", "a /* c */ = 1", "/* c **/ a = 1", "a = 1 /* open",
        "/**/a = 1", "/***/a = 1", "/* a * / b */ a = 1", "a\t=\n1", "a\r=\f1", "a = 1;", "a = 1 AND", "a = 1 OR", "AND a = 1", "OR", "IN", "a = AND", "NOT",
        "(a = 1", "(a = 1))", "((a = 1))", "()", "(a)", "(a) = 1", "((a) = (1))", "-1 = -1", "- - 1 = 1", "--1 = 1", "+1 = 1", "+ + 1 = 1", "-+1 = -1",
        "+-1 = -1", "-'x' = 'x'", "-TRUE = TRUE", "-a = -1", "-missing IS NULL", "-1 IS NULL", "-a IS NULL", "-1.5 = -1.5", "1 = 1.0", "1 = '1'", "'1' = 1",
        "'1' = 1.0", "'x' = 1", "1 > 'x'", "1 > 0", "1 > 2", "1.5 > 1", "2147483648 > 1", "2147483648 > 1.5", "1.5 < 2147483648", "1 < a", "0.5 < a",
        "2147483648 > a", "NULL > 1", "1 > NULL", "a > NULL", "TAGS = 'x'", "KEYS IS NULL", "\u4e2d = 1", "s = '\u4e2d'", "a = 1 AND b = '2' OR s = 'x'",
        "a IS NOT NULL AND b IS NOT NULL AND s IS NOT NULL", "a = 1 AND NOT (b = '3')", "a = 1 AND NOT b = '3'", "NOT (a = 1) AND NOT (b = '3')",
        "a = 1 AND t", "t AND a = 1", "t OR a = 1", "a OR b", "(t)", "NOT (t)", "1 AND 2", "a = 1 AND 1", "'x' OR a = 1", "a > 1 = TRUE", "TRUE = a > 1",
        "a = 1 NOT", "a = 1 IN", "a = 1 IS", "a = 1 TRUE", "a = 1 'x'", "a = 1 1", "a = 1 (", "a = 1 )", "a = 1 ,", "a = 1 <", "a = 1 -", "a = 1 +"
    };
}
