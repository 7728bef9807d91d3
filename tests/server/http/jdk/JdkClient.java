// Asks a chat endpoint with the JDK's own HTTP client, in the ways that Spring AI, LangChain4j and Ktor do.
// usage: java JdkClient.java URL KEY BODY STREAMED_BODY; prints "CASE STATUS LAST_LINE" for each case.

import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.stream.Stream;

public class JdkClient {
  public static void main(String[] arguments) throws Exception {
    URI uri = URI.create(arguments[0] + "/v1/chat/completions");
    String key = arguments[1], body = arguments[2], streamed = arguments[3];
    for (HttpClient.Version version : HttpClient.Version.values()) {
      // One client for all its cases, as an application has: connections are reused where they can be.
      HttpClient client = HttpClient.newBuilder().version(version).build();
      for (String repeated : new String[] {"first", "second"}) {
        print(version + " " + repeated, client, request(uri, key, BodyPublishers.ofString(body)));
      }
      // A body of unknown length is sent in chunks.
      BodyPublisher chunked = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body.getBytes()));
      print(version + " chunked", client, request(uri, key, chunked));
      print(version + " large", client, request(uri, key, BodyPublishers.ofString(body + " ".repeat(300_000))));
      print(version + " refused", client, request(uri, "sk-wrong", BodyPublishers.ofString(body)));
      HttpResponse<Stream<String>> lines =
          client.send(request(uri, key, BodyPublishers.ofString(streamed)), BodyHandlers.ofLines());
      String last = lines.body().filter(line -> !line.isEmpty()).reduce("", (before, line) -> line);
      System.out.println(version + " streamed " + lines.statusCode() + " " + last);
    }
  }

  private static HttpRequest request(URI uri, String key, BodyPublisher body) {
    return HttpRequest.newBuilder(uri)
        .header("Authorization", "Bearer " + key)
        .header("Content-Type", "application/json")
        .POST(body)
        .build();
  }

  private static void print(String name, HttpClient client, HttpRequest request) throws Exception {
    HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
    System.out.println(name + " " + response.statusCode() + " " + response.body());
  }
}
