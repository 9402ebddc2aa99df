/** Fetches a page with what Java trusts by itself. `Fetch.class.base64` is this, compiled for Java 11:
 *  `javac --release 11 Fetch.java`. Those who run the tests need no compiler for it. */
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        java.net.URI.create(arguments[0]).toURL().openStream().transferTo(System.out);
    }
}
