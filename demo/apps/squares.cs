using System;
using System.Linq;
using System.Runtime.InteropServices;

class Squares {
    static void Main() {
        var squares = Enumerable.Range(1, 5).Select(n => n * n);
        Console.WriteLine("hello from {0}: {1}", RuntimeInformation.FrameworkDescription, string.Join(" ", squares));
    }
}
